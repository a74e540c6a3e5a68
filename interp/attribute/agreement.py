"""How far an estimated causal map agrees with the exact one, and where it does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from scipy.stats import spearmanr

from interp.attribute.patching import together
from interp.errors import InterpError


def agreement(exact: xr.Dataset, estimate: xr.Dataset, by: Sequence[str] = ()) -> xr.Dataset:
    """The exact and the estimated change of the value in the same cells, and how well they rank.

    Example:
        >>> both = agreement(causal_trace(sd, a, patch), attribution_patching(sd, a, patch))
        >>> both.spearman.item()
        >>> agreement(exact, estimate, by=["layer"]).spearman       # where it fails

    Estimates are summed over what the exact map patches together: categories always, heads and
    sides where it has no such axis.

    Args:
        exact: of `causal_trace` on the clean trajectory, direction "necessary".
        estimate: of `attribution_patching` with the same patches, prompts and seeds.
        by: axes along which the correlation is taken separately.

    Returns:
        `exact` and `estimate` on the axes of the exact map, and `spearman` over their cells.

    Raises:
        InterpError: the exact map is not of the clean trajectory, or the maps share no cell.
    """
    if "step" not in exact.clean.dims or "direction" in exact.dims:
        raise InterpError(
            f"Cannot compare an exact map with axes {tuple(exact['value'].dims)}.",
            "An estimate is of single cells on the clean trajectory.",
            "Trace with trajectory='clean' and direction='necessary', or select that direction.",
        )
    change = exact["value"] - exact.clean
    joined = [axis for axis in ("category", "head", "side") if axis not in change.dims]
    guessed = together(estimate, [axis for axis in joined if axis in estimate.estimate.dims])
    change, guessed = xr.align(change, guessed, join="inner")
    guessed = guessed.transpose(*change.dims)
    if not change.size:
        raise InterpError(
            "Cannot compare the exact with the estimated map.",
            "They have no cell in common.",
            "Make both with the same patches, prompts, seeds, layers and steps.",
        )
    rest = [dim for dim in change.dims if dim not in by]
    rank = xr.apply_ufunc(_spearman, change, guessed, input_core_dims=[rest, rest], vectorize=True)
    return xr.Dataset({"exact": change, "estimate": guessed, "spearman": rank})


def _spearman(exact: np.ndarray, estimate: np.ndarray) -> float:
    there = np.isfinite(exact) & np.isfinite(estimate)
    a, b = exact[there], estimate[there]
    # Cells that are all equal have no ranks.
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a, b).statistic)
