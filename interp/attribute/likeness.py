"""Multi-scale structural similarity of noise predictions, NeMo's measure of memorization.

In torch, because scikit-image has only one scale. Equal to torchmetrics, which the authors use and
calibrated their threshold with; it refuses maps below 44 x 44, which are compared here at fewer
scales and with a smaller window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

SCALES = 3
WEIGHT = 0.99
"""The total over all scales: NeMo gives 0.33 to each of three."""
WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def stretched(maps: Float[Tensor, "row c h w"]) -> Float[Tensor, "row c h w"]:
    """Stretch every channel of every row linearly to [0, 1].

    Example:
        >>> stretched(torch.randn(2, 4, 64, 64)).amax()
        tensor(1.)
    """
    low = reduce(maps, "row c h w -> row c 1 1", "min")
    high = reduce(maps, "row c h w -> row c 1 1", "max")
    return (maps - low) / (high - low).clamp_min(1e-12)


def ms_ssim(
    a: Float[Tensor, "row c h w"],
    b: Float[Tensor, "row c h w"],
    data_range: float | None = None,
) -> Float[Tensor, " row"]:
    """Multi-scale structural similarity, row by row; 1 for equal rows.

    Example:
        >>> a, b = (stretched(torch.randn(2, 4, 64, 64)) for _ in range(2))
        >>> ms_ssim(a, b)

    Three scales with weight 0.33 each (fewer for small maps, with the same total), a Gaussian
    window with sigma 1.5, averaged over channels and places at each scale.

    Args:
        a, b: the rows to compare.
        data_range: the range of the values. None is the default of torchmetrics and thus NeMo's:
            the larger range of the two batches, taken anew at every scale. Averaging noise shrinks
            its range, so unlike rows score lower than with `data_range=1`, and a row's score
            depends slightly on the rest of the batch.

    Source: Wang, Simoncelli & Bovik 2003; the same numbers as
    `multiscale_structural_similarity_index_measure(a, b, betas=(0.33, 0.33, 0.33))` of
    torchmetrics 1.
    """
    shorter = min(a.shape[-2:])
    window = min(WINDOW, shorter - (shorter + 1) % 2)
    scales = 1
    while scales < SCALES and shorter // 2**scales >= window:
        scales += 1
    means = []
    for scale in range(scales):
        reach = max(_reach(a), _reach(b)) if data_range is None else data_range
        similarity, structure = _terms(a, b, window, reach)
        # Luminance counts only at the coarsest scale.
        means.append(similarity if scale == scales - 1 else structure)
        if scale < scales - 1:
            a, b = (F.avg_pool2d(part, 2) for part in (a, b))
    powers = torch.stack(means).clamp_min(0) ** (WEIGHT / scales)
    return reduce(powers, "scale row -> row", "prod")


def _reach(maps: Tensor) -> float:
    # Constant maps have no range; any will do.
    return max(float(maps.max() - maps.min()), 1e-6)


def _terms(
    a: Tensor, b: Tensor, window: int, reach: float
) -> tuple[Float[Tensor, " row"], Float[Tensor, " row"]]:
    """Similarity over the whole map, mirrored at its edges; contrast and structure inside it."""
    margin = window // 2
    place = torch.arange(window, dtype=a.dtype, device=a.device) - margin
    line = torch.exp(-(place**2) / (2 * SIGMA**2))
    kernel = rearrange(line, "x -> x 1") * line
    kernel = rearrange(kernel / kernel.sum(), "y x -> 1 1 y x")

    def mean(maps: Tensor) -> Tensor:
        flat = rearrange(maps, "row c h w -> (row c) 1 h w")
        return rearrange(F.conv2d(flat, kernel), "(row c) 1 h w -> row c h w", row=len(maps))

    a, b = (F.pad(part, (margin,) * 4, mode="reflect") for part in (a, b))
    mean_a, mean_b = mean(a), mean(b)
    var_a = (mean(a * a) - mean_a**2).clamp_min(0)
    var_b = (mean(b * b) - mean_b**2).clamp_min(0)
    both = mean(a * b) - mean_a * mean_b
    c1, c2 = (K1 * reach) ** 2, (K2 * reach) ** 2
    light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * both + c2) / (var_a + var_b + c2)
    high, wide = structure.shape[-2:]
    inside = structure[..., margin : high - margin, margin : wide - margin]
    return (
        reduce(light * structure, "row c h w -> row", "mean"),
        reduce(inside, "row c h w -> row", "mean"),
    )
