"""How well scores tell memorized prompts from controls, with intervals clustered by training image.

Curve and area are scikit-learn's. Published numbers treat prompts as independent, and mostly use
controls of another style: the clustering takes care of the first; for the second, match yours.
"""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import sklearn
import xarray as xr
from numpy.typing import ArrayLike
from sklearn.metrics import auc, roc_curve

from interp.detect.calibrate import calibrate
from interp.errors import InterpError
from interp.results.intervals import LEVEL, RESAMPLES, Groups, groups_of, resample

#: The false positive rates at which a curve is given: 0, 0.1 %, 0.5 %, 1 %, 2 %, ... 100 %.
ALLOWED = (0.0, 0.001, 0.005, *(percent / 100 for percent in range(1, 101)))


def roc(
    memorized: xr.DataArray | ArrayLike,
    control: xr.DataArray | ArrayLike,
    groups: Groups = None,
    *,
    control_groups: Groups = None,
    fpr: Sequence[float] = ALLOWED,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> xr.Dataset:
    """Return the ROC curve and its area, with bootstrap intervals clustered by training image.

    Example:
        >>> curve = detect.roc(scores[memorized], scores[control], groups=file.groups)
        >>> float(curve.auc), float(curve.auc_low), float(curve.auc_high)
        >>> float(curve.tpr.sel(fpr=0.01))          # TPR@1%FPR

    Args:
        memorized: scores over (prompt) or (prompt, seed): every image is one example.
        control: the same, of prompts that are not memorized.
        groups: one label for each memorized prompt, equal where they share a training image; by
            default the coordinate `group`, else every prompt is a group of its own. All prompts and
            seeds of a group are drawn together.
        control_groups: the same for controls.
        fpr: the false positive rates of the curve.
        level: coverage of the percentile intervals.
        resamples: bootstrap resamples.
        seed: of the resampling.

    Returns:
        Over the axis `fpr`: `tpr`, the highest true positive rate with a false positive rate of at
        most `fpr`; `tpr_low` and `tpr_high`; and `threshold`, as `calibrate` gives it (NaN for an
        `fpr` of 1). Also `auc`, `auc_low` and `auc_high`. Interval ends are NaN if either side is
        a single group.

    Raises:
        InterpError: a side is empty or has NaN, or groups do not match the prompts.
    """
    sides = [_scores(memorized, "memorized"), _scores(control, "control")]
    labels = [groups_of(sides[0], groups), groups_of(sides[1], control_groups)]
    allowed = np.asarray(fpr, dtype=np.float64)
    truth = np.concatenate([np.full(s.size, y) for s, y in zip(sides, (1, 0), strict=True)])
    flat = np.concatenate([side.values.reshape(-1) for side in sides])

    area, tpr = _curve(truth, flat, allowed)
    # Two streams of one seed: with one stream, sides of equal size would be drawn alike.
    seeds = np.random.SeedSequence(seed).spawn(2)
    weights = [_weights(*of, resamples) for of in zip(sides, labels, seeds, strict=True)]
    # Checking the same scores in every resample would take longer than the curves.
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        both = zip(*weights, strict=True)
        drawn = [_curve(truth, flat, allowed, np.concatenate(weight)) for weight in both]
    tail = (1 - level) / 2
    areas = np.quantile([area for area, _ in drawn], [tail, 1 - tail])
    tprs = np.quantile([tpr for _, tpr in drawn], [tail, 1 - tail], axis=0)
    if min(len(set(groups)) for groups in labels) == 1:
        areas, tprs = areas * np.nan, tprs * np.nan
    thresholds = [calibrate(sides[1], x) if x < 1 else np.nan for x in allowed]
    return xr.Dataset(
        {
            "tpr": ("fpr", tpr),
            "tpr_low": ("fpr", tprs[0]),
            "tpr_high": ("fpr", tprs[1]),
            "threshold": ("fpr", thresholds),
            "auc": area,
            "auc_low": areas[0],
            "auc_high": areas[1],
        },
        {"fpr": allowed},
        {
            "memorized": sides[0].size,
            "control": sides[1].size,
            "memorized_groups": len(set(labels[0])),
            "control_groups": len(set(labels[1])),
            "level": level,
            "resamples": resamples,
            "seed": seed,
        },
    )


def _scores(given: xr.DataArray | ArrayLike, side: str) -> xr.DataArray:
    """Scores on the axes (prompt, seed)."""
    if isinstance(given, xr.DataArray):
        scores = given.transpose("prompt", ...)
    else:
        values = np.asarray(given, dtype=np.float64)
        scores = xr.DataArray(values, dims=("prompt", "seed")[: values.ndim])
    if not scores.size or bool(scores.isnull().any()):
        raise InterpError(
            f"The ROC curve of {scores.size} {side} scores was asked for.",
            f"{int(scores.isnull().sum())} of them are NaN.",
            "Pass at least one score on each side, none NaN.",
        )
    return scores


def _weights(
    scores: xr.DataArray, groups: Sequence[Hashable], seed: np.random.SeedSequence, resamples: int
) -> Iterator[np.ndarray]:
    """For every resample, the weight of every score."""
    per_prompt = scores.size // scores.sizes["prompt"]
    return (np.repeat(row, per_prompt) for row in resample(groups, resamples, seed))


def _curve(
    truth: np.ndarray, scores: np.ndarray, allowed: np.ndarray, weight: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """The area, and the highest TPR at each allowed FPR."""
    fpr, tpr, _ = roc_curve(truth, scores, sample_weight=weight, drop_intermediate=False)
    # Both rise, so the last allowed point is the best one.
    return auc(fpr, tpr), tpr[np.searchsorted(fpr, allowed, side="right") - 1]
