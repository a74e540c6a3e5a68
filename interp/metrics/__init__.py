"""Metrics: how an image compares with a reference, a prompt, or the same prompt's other seeds.

    metric(images, reference) -> Tensor[n]          metric.provenance() -> dict

Images are a float batch `[n, 3, h, w]` in [0, 1], a `[..., h, w, 3]` array, or PIL images.
"""

from interp.metrics.aesthetic import Aesthetic
from interp.metrics.base import Metric
from interp.metrics.clipscore import CLIPScore
from interp.metrics.diversity import Diversity
from interp.metrics.images import Images, as_batch
from interp.metrics.pixels import PixelL2, RelativeL2, TileL2, pixel_l2, tile_l2
from interp.metrics.sscd import SSCD
from interp.metrics.structure import LPIPS, SSIM, ssim

__all__ = [
    "LPIPS", "SSCD", "SSIM", "Aesthetic", "CLIPScore", "Diversity", "Images", "Metric", "PixelL2",
    "RelativeL2", "TileL2", "as_batch", "pixel_l2", "ssim", "tile_l2",
]  # fmt: skip
