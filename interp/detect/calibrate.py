"""From control scores to a threshold: nothing about memorized prompts is needed, or looked at."""

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
    Ties are on the safe side: equal control scores are flagged all or none.

    The share is that of these controls. Of new ones, on average, a share of at most
    `(k + 1) / (n + 1)` is flagged, with `k` of the `n` controls allowed above: with 20 controls
    that is 5 %, whatever was asked for.

    Args:
        control: scores of prompts that are known not to be memorized, of any shape.
        fpr: from 0 (flag no control) to below 1.

    Wen et al. take the last point with FPR < 1 %; Ren et al. and others the point whose FPR is
    *closest* to 1 %, which may exceed it.

    Raises:
        InterpError: there are no scores, some are NaN, or `fpr` is no such number.
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
