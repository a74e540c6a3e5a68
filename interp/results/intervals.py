"""Means and their intervals, where several prompts share one training image.

Such prompts succeed and fail together: an interval that takes them for independent is too narrow
(458 prompts of the extended memorized list stand for 94 images). So the bootstrap draws images, and
takes all prompts and seeds of an image with it. For fewer than about ten images no bootstrap is to
be trusted.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from interp.errors import InterpError

Groups = Sequence[Hashable] | np.ndarray | xr.DataArray | None
"""One label for each prompt, equal where prompts share a training image."""

LEVEL = 0.95
RESAMPLES = 1000
GROUP = "group"
"""The coordinate on `prompt` that names the training image."""


def resample(
    groups: Sequence[Hashable],
    resamples: int = RESAMPLES,
    seed: int | np.random.SeedSequence = 0,
) -> Float[np.ndarray, "resample prompt"]:
    """How often each prompt is in each resample: as often as its group was drawn.

    Example:
        >>> resample(["a", "a", "b"], resamples=2)
        array([[1., 1., 1.],
               [2., 2., 0.]])

    Args:
        groups: one label for each prompt.
        resamples: how many times to draw as many groups as there are, with replacement.
        seed: of the drawing.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    count = len(numbers)
    draws = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=resamples)
    return draws[:, [numbers[group] for group in groups]].astype(np.float64)


def groups_of(scores: xr.DataArray, groups: Groups = None) -> list[Hashable]:
    """The group of every prompt: as given, or the coordinate `group`, or each its own.

    Example:
        >>> groups_of(scores, file.groups)

    Raises:
        InterpError: there are not as many as prompts.
    """
    if groups is None:
        groups = scores[GROUP] if GROUP in scores.coords else range(scores.sizes["prompt"])
    labels = list(np.asarray(groups).tolist() if hasattr(groups, "dtype") else groups)
    if len(labels) != scores.sizes["prompt"]:
        raise InterpError(
            f"{len(labels)} groups were given.",
            f"There are {scores.sizes['prompt']} prompts.",
            "Give one group for each prompt, equal where prompts share a training image.",
        )
    return labels


def mean(
    values: xr.DataArray,
    groups: Groups = None,
    *,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> xr.Dataset:
    """The mean over prompts and seeds, and its percentile interval under resampling of groups.

    Example:
        >>> mean(grid.sscd, groups=file.groups)      # mean, low and high over (patch)

    Args:
        values: with the axis `prompt`; `seed`, where there is one, is averaged over too, and every
            other axis is kept. NaN counts as not measured.
        groups: one label for each prompt, equal where they share a training image; by default the
            coordinate `group`, else every prompt is a group of its own.
        level: the interval's coverage.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        `mean`, `low` and `high`; both ends are NaN where there is only one group, or so few were
        measured that a resample has none of them.
    """
    over = [dim for dim in values.dims if dim == "seed"]
    labels = groups_of(values, groups)
    weight = xr.DataArray(resample(labels, resamples, seed), dims=("resample", "prompt"))
    totals, counts = values.fillna(0).sum(over), values.notnull().sum(over)
    with np.errstate(invalid="ignore"):  # a resample may hold nothing that was measured
        drawn = xr.dot(weight, totals, dim="prompt") / xr.dot(weight, counts, dim="prompt")
    tail = (1 - level) / 2
    ends = drawn.quantile([tail, 1 - tail], dim="resample", skipna=False)
    if len(set(labels)) == 1:
        ends = ends * np.nan
    return xr.Dataset(
        {
            "mean": values.mean(["prompt", *over]),
            "low": ends.isel(quantile=0, drop=True),
            "high": ends.isel(quantile=1, drop=True),
        }
    )
