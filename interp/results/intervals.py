"""Means over prompts and seeds, and their intervals by bootstrap.

Prompts that share a training image succeed and fail together: an interval that takes them for
independent is too narrow (458 prompts of the extended memorized list stand for 94 images). So
`mean` draws images, and takes all prompts and seeds of an image with it. `bootstrap`, for prompts
that share none, draws prompts and then, within each, seeds (Davison & Hinkley 1997, section 3.8).
For fewer than about ten images no bootstrap is to be trusted.
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
    groups: Sequence[Hashable], resamples: int = RESAMPLES, seed: int | np.random.SeedSequence = 0
) -> Float[np.ndarray, "resample prompt"]:
    """How often each prompt is in each resample: as often as its group was drawn.

    Example:
        >>> resample(["a", "a", "b"], resamples=2, seed=1)
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


def bootstrap(
    data: xr.DataArray, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> xr.DataArray:
    """Percentile interval of the mean over `prompt` and `seed`, on a new axis `bound`.

    Example:
        >>> bootstrap(result.phi).sel(player="pad")     # low, high

    With one prompt the interval is over seeds alone and says nothing about other prompts. NaN where
    there is nothing to resample: one prompt with one seed.

    Raises:
        InterpError: if the data has not both axes, or the level is no probability.
    """
    if not {"prompt", "seed"} <= set(data.dims) or not 0 < level < 1:
        raise InterpError(
            f"A {level} interval over prompts and seeds of {data.dims} was asked for.",
            "The data must have the axes prompt and seed, and the level lie between 0 and 1.",
            "Keep both axes, of length 1 if need be, and say level=0.95.",
        )
    rest = [dim for dim in data.dims if dim not in ("prompt", "seed")]
    values = data.transpose("prompt", "seed", ...).values
    prompts, seeds = values.shape[:2]
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, *values.shape[2:]))
    for number in range(resamples):
        rows = generator.integers(prompts, size=(prompts, 1))
        columns = generator.integers(seeds, size=(prompts, seeds))
        means[number] = values[rows, columns].mean(axis=(0, 1))
    tail = (1 - level) / 2
    bounds = np.quantile(means, [tail, 1 - tail], axis=0)
    if prompts * seeds == 1:
        bounds[:] = np.nan
    coords = {dim: data[dim] for dim in rest if dim in data.coords}
    return xr.DataArray(bounds, dims=("bound", *rest), coords={**coords, "bound": ["low", "high"]})
