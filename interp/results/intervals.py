"""Means over prompts and seeds, and their intervals by bootstrap.

Prompts that share a training image succeed and fail together: an interval that treats them as
independent is too narrow (the 458 prompts of the extended memorized list have 94 images). So `mean`
resamples images, each with all its prompts and seeds. `bootstrap`, for prompts that share none,
resamples prompts and then, within each, seeds (Davison & Hinkley 1997, section 3.8). With fewer
than about ten images, do not trust any bootstrap.
"""

from collections.abc import Hashable, Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from interp.errors import InterpError

Groups = Sequence[Hashable] | np.ndarray | xr.DataArray | None
"""One label per prompt, equal for prompts that share a training image."""

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
        groups: one label per prompt.
        resamples: how often to draw, with replacement, as many groups as there are.
        seed: the random seed.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    count = len(numbers)
    draws = np.random.default_rng(seed).multinomial(count, [1 / count] * count, size=resamples)
    return draws[:, [numbers[group] for group in groups]].astype(np.float64)


def groups_of(scores: xr.DataArray, groups: Groups = None) -> list[Hashable]:
    """The group of every prompt: as given, else the coordinate `group`, else one per prompt.

    Example:
        >>> groups_of(scores, file.groups)

    Raises:
        InterpError: the number of groups is not that of the prompts.
    """
    if groups is None:
        groups = scores[GROUP] if GROUP in scores.coords else range(scores.sizes["prompt"])
    labels = list(np.asarray(groups).tolist() if hasattr(groups, "dtype") else groups)
    if len(labels) != scores.sizes["prompt"]:
        raise InterpError(
            f"{len(labels)} groups were given.",
            f"There are {scores.sizes['prompt']} prompts.",
            "Pass one group for each prompt, equal for prompts that share a training image.",
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
        values: with the axis `prompt`; `seed`, if there is one, is averaged over too, and other
            axes are kept. NaN counts as not measured.
        groups: one label per prompt, equal for prompts that share a training image; by default the
            coordinate `group`, else every prompt is its own group.
        level: the interval's coverage.
        resamples: bootstrap resamples.
        seed: the random seed.

    Returns:
        `mean`, `low` and `high`; both ends are NaN if there is only one group, or so few values
        were measured that a resample has none.
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

    With one prompt the interval is over seeds only and says nothing about other prompts. NaN if
    there is nothing to resample: one prompt with one seed.

    Raises:
        InterpError: the data lack one of the axes, or the level is not a probability.
    """
    if not {"prompt", "seed"} <= set(data.dims) or not 0 < level < 1:
        raise InterpError(
            f"A {level} interval over prompts and seeds of {data.dims} was asked for.",
            "The data must have the axes prompt and seed, and the level must be between 0 and 1.",
            "Keep both axes, with length 1 if need be, and use level=0.95.",
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
