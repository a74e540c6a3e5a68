"""Multi-scale structural similarity of noise predictions, which NeMo judges memorization by.

In torch, because scikit-image has one scale only. Noise predictions are small: a map that is too
small for a scale is compared at fewer of them, and with a window that fits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

SCALES = 3
WINDOW, SIGMA = 11, 1.5
STABLE = (0.01**2, 0.03**2)


def stretched(maps: Float[Tensor, "row c h w"]) -> Float[Tensor, "row c h w"]:
    """Every channel of every row, linearly, from 0 to 1.

    Example:
        >>> stretched(eps - noise).amax()
        tensor(1.)
    """
    low = reduce(maps, "row c h w -> row c 1 1", "min")
    high = reduce(maps, "row c h w -> row c 1 1", "max")
    return (maps - low) / (high - low).clamp_min(1e-12)


def ms_ssim(a: Float[Tensor, "row c h w"], b: Float[Tensor, "row c h w"]) -> Float[Tensor, " row"]:
    """Multi-scale structural similarity of rows with values in [0, 1]; 1 for equal ones.

    Example:
        >>> ms_ssim(stretched(a), stretched(b))

    Equal weights for up to three scales, Gaussian window of 11 with sigma 1.5 where it fits, mean
    over channels.

    Source: Wang, Simoncelli & Bovik 2003.
    """
    window = min(WINDOW, min(a.shape[-2:]) - (min(a.shape[-2:]) + 1) % 2)
    scales = 1
    while scales < SCALES and min(a.shape[-2:]) // 2**scales >= window:
        scales += 1
    factors = []
    for scale in range(scales):
        light, structure = _terms(a, b, window)
        # Luminance counts at the coarsest scale alone.
        factors.append(structure if scale < scales - 1 else light * structure)
        a, b = (F.avg_pool2d(part, 2, ceil_mode=True) for part in (a, b))
    means = torch.stack([reduce(factor, "row c h w -> row c", "mean") for factor in factors])
    powers = means.clamp_min(0) ** (1 / scales)
    return reduce(reduce(powers, "scale row c -> row c", "prod"), "row c -> row", "mean")


def _terms(a: Tensor, b: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast with structure, at every place of the window."""
    place = torch.arange(window, dtype=a.dtype, device=a.device) - window // 2
    line = torch.exp(-(place**2) / (2 * SIGMA**2))
    kernel = rearrange(line, "x -> x 1") * line
    kernel = rearrange(kernel / kernel.sum(), "y x -> 1 1 y x")

    def mean(maps: Tensor) -> Tensor:
        flat = rearrange(maps, "row c h w -> (row c) 1 h w")
        return rearrange(F.conv2d(flat, kernel), "(row c) 1 h w -> row c h w", row=len(maps))

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    both = mean(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + STABLE[0]) / (mean_a**2 + mean_b**2 + STABLE[0])
    return light, (2 * both + STABLE[1]) / (var_a + var_b + STABLE[1])
