"""Conclusions from the numbers of a report: the verdicts, and what drives memorization.

The rule for the verdict, which the report also prints:

- If the training image is known: *memorized* if at least half of the unedited images are copies of
  it (similarity at or above the threshold), *unclear* if at least one is, or if all seeds give the
  same image but a different one (perhaps another prompt's).
- Otherwise there are two criteria: the images of different seeds are copies of one another (median
  over pairs at or above the threshold), and some detector is above the threshold set by controls:
  those of the model's calibration or, without one, those of the report. Both:
  *memorized*; one: *unclear*. Without controls only the first criterion is left, which alone never
  gives more than *unclear*.

How a prompt is listed does not affect its verdict, except that controls set detectors' thresholds.
"""

from collections.abc import Mapping

import numpy as np
import xarray as xr

from interp import detect
from interp.attribute.games import coalitions, solve
from interp.detect.calibration import CLEAN, MAJORITY, MEMORIZED, UNCLEAR
from interp.report.edits import PLAYERS, without

FPR = 0.01
"""Share of the controls that may be above some detector's threshold."""


def assess(
    data: xr.Dataset, threshold: float, levels: Mapping[str, float] | None = None
) -> xr.Dataset:
    """Add the conclusions to the measurements.

    Example:
        >>> assess(data, 0.5).verdict

    Args:
        data: with `similarity`, `alike`, `score`, `edit_similarity`, and `kind` on the prompts.
        threshold: the similarity from which images are copies.
        levels: thresholds by detector; by default those set by the data's own controls.

    Returns:
        The dataset with `copied(prompt)`, the share of unedited images that are copies of the
        training image (NaN if it is unknown); `detector_threshold(detector)` (NaN without controls)
        and `flagged(prompt, detector)`; `verdict(prompt)`; `kept(prompt, patch, edit_seed)`, the
        similarity to the training image or, if unknown, to the unedited one; and
        `phi(player, prompt)`, each category's Shapley share of it (NaN if an edit does not apply or
        was not run).
    """
    training = data.edit_similarity.sel(reference="training", drop=True)
    baseline = data.edit_similarity.sel(reference="baseline", drop=True)
    data = data.assign(
        copied=(data.similarity >= threshold).mean("seed").where(data.training_known),
        kept=xr.where(data.training_known, training, baseline).transpose(
            "prompt", "patch", "edit_seed"
        ),
        detector_threshold=_levels(data, levels),
    )
    score = data.score.mean("seed")
    data["flagged"] = (score > data.detector_threshold).transpose("prompt", "detector")
    alike = data.alike >= threshold
    some = (data.copied > 0) | alike
    known = xr.where(data.copied >= MAJORITY, MEMORIZED, xr.where(some, UNCLEAR, CLEAN))
    signs = alike.astype(int) + data.flagged.any("detector")
    inferred = xr.where(signs == 2, MEMORIZED, xr.where(signs == 1, UNCLEAR, CLEAN))
    data["verdict"] = xr.where(data.training_known, known, inferred).astype(str)
    data["phi"] = _shares(data.kept.mean("edit_seed"))
    return data


def _levels(data: xr.Dataset, given: Mapping[str, float] | None) -> xr.DataArray:
    """For every detector the threshold exceeded by no control, or as few as calibration allows."""
    if given is not None:
        return xr.DataArray([given[str(name)] for name in data.detector.values], dims="detector")
    controls = data.score.mean("seed").isel(prompt=np.flatnonzero(data.kind.values == "control"))
    levels = [
        detect.calibrate(controls.sel(detector=name), FPR / len(data.detector))
        if controls.sizes["prompt"]
        else np.nan
        for name in data.detector.values
    ]
    return xr.DataArray(levels, dims="detector")


def _shares(kept: xr.DataArray) -> xr.DataArray:
    """Shapley values from the removals, which cover all coalitions of the players."""
    missing = [
        tuple(player for player, present in zip(PLAYERS, row, strict=True) if not present)
        for row in coalitions(len(PLAYERS))
    ]
    needed = [without(names) for names in missing]
    absent = [name for name in needed if name not in kept.patch.values]
    if absent:
        empty = kept.isel(patch=0, drop=True).expand_dims(player=list(PLAYERS))
        return xr.full_like(empty, np.nan).transpose("player", "prompt").astype(np.float64)
    worth = kept.sel(patch=needed).reset_coords(drop=True).rename(patch="coalition")
    phi = solve(worth.transpose("coalition", "prompt"), PLAYERS).phi
    return phi.transpose("player", "prompt")
