"""Pixel distances: they detect exact copies and nothing else.

Carlini et al., "Extracting Training Data from Diffusion Models", USENIX Security 2023. A small
shift or another crop defeats them; use SSCD for copies that an eye would call copies.
"""

from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from interp.errors import InterpError
from interp.metrics.base import Metric
from interp.metrics.images import Images, as_batch, same_size


def _rms(difference: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    return reduce(difference.square(), "n d -> n", "mean").sqrt()


@dataclass(frozen=True, repr=False)
class PixelL2(Metric):
    """Root mean square difference of pixels in [0, 1], `sqrt(sum((a - b)^2) / d)`.

    Example:
        >>> pixel_l2(images, training_image)
        tensor([0.0213, 0.3144])

    Source: Carlini et al. 2023, the normalised Euclidean distance of section 4.
    """

    name = "pixel_l2"
    larger_is_closer = False

    def __call__(self, images: Images, reference: Images) -> Float[Tensor, " n"]:
        a, b = same_size(images, reference)
        return _rms(rearrange(a - b, "n c h w -> n (c h w)")).cpu()

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "range": [0, 1], "normalised": "root mean square"}


@dataclass(frozen=True, repr=False)
class TileL2(Metric):
    """The largest `PixelL2` over tiles that do not overlap: a shared flat background is not enough.

    Example:
        >>> TileL2(tiles=4)(images, training_image)     # 128 x 128 tiles of a 512 x 512 image
        tensor([0.0391, 0.5120])

    Args:
        tiles: tiles along each side. Carlini et al. cut 512 x 512 images into tiles of 128.

    Raises:
        InterpError: the image does not divide into that many tiles.

    Source: Carlini et al. 2023, section 4.2 (their threshold for an edge of the clique: 0.15).
    """

    tiles: int = 4
    name = "tile_l2"
    larger_is_closer = False

    def __call__(self, images: Images, reference: Images) -> Float[Tensor, " n"]:
        a, b = same_size(images, reference)
        height, width = a.shape[-2:]
        if height % self.tiles or width % self.tiles:
            raise InterpError(
                asked=f"{self.tiles}² tiles of {height} x {width} pixels were asked for.",
                exists="Tiles must be of equal size and cover the image.",
                todo="Choose a number of tiles that divides both sides.",
            )
        tiles = rearrange(a - b, "n c (p h) (q w) -> (n p q) (c h w)", p=self.tiles, q=self.tiles)
        return reduce(_rms(tiles), "(n pq) -> n", "max", n=len(a)).cpu()

    def provenance(self) -> dict[str, Any]:
        return {**PixelL2().provenance(), "name": self.name, "tiles": self.tiles}


class RelativeL2(Metric):
    """`PixelL2` to the reference, relative to the mean distance to the nearest training images.

    Below 1 the image is closer to the reference than `alpha` times that mean distance, which keeps
    plain images (a white background) from passing as copies.

    Example:
        >>> RelativeL2(training_images)(images, training_image)
        tensor([0.31, 1.87])

    Args:
        population: training images, as large as the generated ones.
        neighbours: how many of them count (50 in the paper), at most the whole population.
        alpha: 0.5 in the paper.

    Source: Carlini et al. 2023, section 5.1. A population image equal to the reference counts too;
    leave it out if the reference is among them.
    """

    name = "relative_l2"
    larger_is_closer = False

    def __init__(self, population: Images, neighbours: int = 50, alpha: float = 0.5) -> None:
        self.population = as_batch(population)
        self.neighbours = min(neighbours, len(self.population))
        self.alpha = alpha

    def __call__(self, images: Images, reference: Images) -> Float[Tensor, " n"]:
        batch = as_batch(images)
        same_size(batch[:1], self.population[:1])
        a = rearrange(batch, "n c h w -> n (c h w)")
        b = rearrange(self.population, "m c h w -> m (c h w)").to(a.device)
        # |a - b|^2 = |a|^2 - 2ab + |b|^2, in float64: near copies would cancel in float32.
        a, b = a.double(), b.double()
        squares = a.square().sum(1)[:, None] - 2 * einsum(a, b, "n d, m d -> n m")
        distances = ((squares + b.square().sum(1)).clamp_min(0) / a.shape[1]).sqrt()
        nearest = distances.topk(self.neighbours, dim=1, largest=False).values.mean(1)
        to_reference = PixelL2()(batch, reference)
        return (to_reference / (self.alpha * nearest.cpu())).to(torch.float32)

    def provenance(self) -> dict[str, Any]:
        return {
            **PixelL2().provenance(),
            "name": self.name,
            "population": len(self.population),
            "neighbours": self.neighbours,
            "alpha": self.alpha,
        }


pixel_l2 = PixelL2()
tile_l2 = TileL2()
