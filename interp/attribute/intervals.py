"""Intervals for means over prompts and seeds, by bootstrap.

Seeds of one prompt are not independent observations of memorization, so prompts are drawn first
and then, within each, seeds (Davison & Hinkley 1997, section 3.8). With one prompt the interval is
over seeds alone and says nothing about other prompts.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from interp.errors import InterpError


def bootstrap(
    data: xr.DataArray, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> xr.DataArray:
    """Percentile interval of the mean over `prompt` and `seed`, on a new axis `bound`.

    Example:
        >>> bootstrap(result.phi).sel(player="pad")     # low, high

    NaN where there is nothing to resample: one prompt with one seed.

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
