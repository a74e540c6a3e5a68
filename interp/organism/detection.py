"""Every detector against the truth: by level of views, against two kinds of controls."""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import interp as ip

from .held_out import titles

FPR = 0.01


def measured(sd: ip.Session, model: Path, store: Path, seeds: int) -> dict[str, Any]:
    """AUC, and the true positive rate at 1 % false positives, by controls, detector and level.

    Args:
        store: gets the scores of every image, `*.nc`; if it is there, they are read.
        seeds: images of each title.
    """
    scores = ip.open(store) if store.exists() else scored(sd, model, seeds)
    if not store.exists():
        ip.save(scores, store)
    return {
        control: {
            str(detector): {
                level: rates(scores[detector], scores.kind == level, scores.kind == control)
                for level in levels(scores)
            }
            for detector in scores.data_vars
        }
        for control in ("control", "held_out")
    }


def levels(scores: xr.Dataset) -> list[str]:
    """The levels of views, the least first, as they are named in `kind`."""
    found = {str(kind) for kind in scores.kind.values} - {"control", "held_out"}
    return sorted(found, key=int)


def scored(sd: ip.Session, model: Path, seeds: int) -> xr.Dataset:
    """The scores of the table's titles and of those held out; `kind` says their views, or which."""
    file = ip.read_prompts(model / "memorized.csv")
    rows = [row for row in file if row.columns["kind"] in ("verbatim", "control")]
    texts = [row.text for row in rows] + [title.text for title in titles()]
    kinds = [
        "control" if row.columns["kind"] == "control" else row.columns["views"] for row in rows
    ] + ["held_out"] * len(titles())
    found = ip.detect.scan(sd, texts, range(seeds))
    return found.assign_coords(kind=("prompt", kinds), group=("prompt", texts))


def rates(scores: xr.DataArray, memorized: xr.DataArray, control: xr.DataArray) -> dict[str, Any]:
    """One detector at one level: area and true positives, with intervals by training image."""
    sides = [scores.isel(prompt=np.flatnonzero(which)) for which in (memorized, control)]
    curve = ip.detect.roc(*sides, fpr=(FPR,))
    at = curve.sel(fpr=FPR)
    return {
        "auc": _rounded(curve.auc, curve.auc_low, curve.auc_high),
        "tpr_at_1_fpr": _rounded(at.tpr, at.tpr_low, at.tpr_high),
    }


def _rounded(*values: xr.DataArray) -> dict[str, float | None]:
    numbers = [None if np.isnan(value) else round(float(value), 4) for value in values]
    return dict(zip(("mean", "low", "high"), numbers, strict=True))
