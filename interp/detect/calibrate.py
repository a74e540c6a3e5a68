"""From control scores to a threshold, without looking at memorized prompts."""

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from interp.errors import InterpError


def calibrate(control: xr.DataArray | ArrayLike, fpr: float = 0.01) -> float:
    """Return the lowest threshold that at most a share `fpr` of the control scores exceeds.

    Example:
        >>> threshold = calibrate(scores.where(scores.kind == "control", drop=True), fpr=0.01)
        >>> scores > threshold

    A score is flagged where it is *greater* than the threshold. Of all thresholds with
    FPR <= `fpr` the lowest flags most, so it has the highest TPR whatever the memorized scores are.
    Equal control scores are all flagged, or none is.

    `fpr` holds for these controls. Of new ones, up to `(k + 1) / (n + 1)` are flagged on average,
    where `k` of the `n` controls may exceed the threshold: 5 % with 20 controls and `fpr=0.01`.

    Args:
        control: scores of prompts that are known not to be memorized, of any shape.
        fpr: from 0 (flag no control) to below 1.

    Wen et al. take the last point with FPR < 1 %; Ren et al. and others the point whose FPR is
    *closest* to 1 %, which may exceed it.

    Raises:
        InterpError: there are no scores, some are NaN, or `fpr` is out of range.
    """
    scores = np.sort(np.asarray(control, dtype=np.float64), axis=None)
    if not scores.size or np.isnan(scores).any() or not 0 <= fpr < 1:
        raise InterpError(
            f"A threshold with a false positive rate of at most {fpr} was asked for.",
            f"There are {scores.size} control scores, {int(np.isnan(scores).sum())} of them NaN.",
            "Pass at least one score, none NaN, and fpr= a number from 0 to below 1.",
        )
    # Counted as ratios of whole numbers: int(0.29 * 100) is 28.
    allowed = np.searchsorted(np.arange(scores.size) / scores.size, fpr, side="right") - 1
    return float(scores[-1 - allowed])
