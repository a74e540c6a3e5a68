"""Which category carries the image? Removed in three ways, since each way is an assumption.

Zero vectors, as in the paper, are no embedding that a text has; a category taken out of the softmax
leaves its share of attention to the others; the mean over ordinary titles says what a title of that
kind says, and nothing of this one.
"""

from typing import Any

import numpy as np
import xarray as xr

import interp as ip
from interp.patch import Patch

from .titles import Title, tail

CATEGORIES = ("prompt", "eot", "pad")
ZERO = {"prompt": "c", "eot": "f", "pad": "h"}
"""The paper's letters for zeroed categories."""
ORDINARY = 256
"""Titles of the long tail whose mean stands for a title."""


def ordinary(count: int = ORDINARY, seed: int = 18) -> list[str]:
    """Titles of the long tail, drawn from those that training showed once."""
    once = np.flatnonzero(tail() == 1)
    chosen = np.random.default_rng(seed).choice(once, count, replace=False)
    return [Title(int(number)).text for number in chosen]


def removals(sd: ip.Session) -> dict[str, Patch]:
    """Every category masked and replaced by its mean; zeroed it is one of the paper's letters."""
    over = sd.encode(ordinary())
    return {
        name: patch
        for category in CATEGORIES
        for name, patch in (
            (f"mask {category}", ip.mask(category)),
            (f"mean {category}", ip.mean(category, over=over)),
        )
    }


def ways(category: str) -> dict[str, str]:
    """The names of the three removals of a category, by way."""
    return {"zero": ZERO[category], "mask": f"mask {category}", "mean": f"mean {category}"}


def drivers(grid: xr.Dataset, threshold: float) -> dict[str, Any]:
    """Of the patched titles shown more than once: how many lose their image with what removed?

    A title loses it when its images, on average over seeds, are no copies any more.
    """
    shown_often = grid.isel(prompt=np.flatnonzero(grid.kind == "verbatim"))
    kept = shown_often["copy"].sel(reference="training").mean("seed") >= threshold
    memorized = kept.sel(patch="none")
    found: dict[str, Any] = {"captions": int(memorized.sum())}
    for way in ("zero", "mask", "mean"):
        lost = {
            category: memorized & ~kept.sel(patch=ways(category)[way]) for category in CATEGORIES
        }
        found[way] = {
            **{category: int(which.sum()) for category, which in lost.items()},
            "both prompt and pad": int((lost["prompt"] & lost["pad"]).sum()),
        }
    return found
