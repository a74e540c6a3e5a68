"""How alike the images of different seeds are: the baseline that any other detector must beat.

It needs whole images of several seeds, and neither the training image nor the model's insides. A
prompt with one obvious picture (a flag, a logo) is as much alike without having been memorized.
"""

from itertools import combinations

import numpy as np
import xarray as xr

from interp.detect.case import Case
from interp.errors import InterpError
from interp.metrics.base import Metric
from interp.metrics.structure import ssim


def seed_likeness(case: Case, metric: Metric = ssim) -> xr.DataArray:
    """Return each image's mean similarity to those of the other seeds, `(seed)`.

    Example:
        >>> seed_likeness(case, ip.metrics.SSCD("sscd_disc_mixup.torchscript.pt")).mean()

    The mean over seeds is the mean over all pairs. Of a distance it is the negative, so that it
    grows with likeness. SSIM is the default for needing no weights; SSCD sees copies that are
    shifted or cropped too.

    Cost: the images; no further UNet row.

    Source: a baseline of the field rather than a paper's. NeMo measures diversity as the median
    over pairs of SSCD, Kim & No as the mean of LPIPS; `metrics.Diversity` gives both.

    Raises:
        InterpError: there is one seed only.
    """
    pairs = between_seeds(case, metric)
    sign = 1 if metric.larger_is_closer else -1
    return (sign * pairs.mean("seed_2")).rename("seed_likeness")


def between_seeds(case: Case, metric: Metric) -> xr.DataArray:
    """The metric between the images of every two seeds, `(seed, seed_2)`, NaN on the diagonal.

    Example:
        >>> between_seeds(case, ip.metrics.tile_l2)

    Raises:
        InterpError: there is one seed only.
    """
    seeds = list(case.seeds)
    if len(seeds) < 2:
        raise InterpError(
            "Images of different seeds were to be compared.",
            f"The case has one seed, {seeds[0]}.",
            "Give more: Case(sd, prompt, seeds=4).",
        )
    found = np.full((len(seeds), len(seeds)), np.nan)
    for (one, other), value in zip(
        combinations(range(len(seeds)), 2), metric.pairwise(case.images).tolist(), strict=True
    ):
        found[one, other] = found[other, one] = value
    return xr.DataArray(found, {"seed": seeds, "seed_2": seeds}, ("seed", "seed_2"))
