"""Whose training image does a caption bring up: its own, a neighbour's, anyone's?"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from einops import rearrange
from torch import Tensor

import interp as ip
from interp.results import intervals
from interp.results.axes import PIXELS

from .duplicates import duplicates
from .scenes import render


@dataclass(frozen=True)
class Judge:
    """The copy descriptor, the similarity from which on it calls a copy, and what was duplicated.

    Example:
        >>> judge = Judge.of(Path("data/organism"))
        >>> judge.of_any(grid).mean()
    """

    copy: ip.metrics.SSCD
    calibration: dict[str, float]
    ids: tuple[str, ...]
    duplicated: Tensor

    @classmethod
    def of(cls, model: Path) -> "Judge":
        """The one that lies beside a model."""
        copy = ip.metrics.SSCD(model / "descriptor.pt", "native")
        calibration = json.loads((model / "descriptor.json").read_text())
        rows = [row for row in duplicates() if row.kind == "verbatim"]
        pictures = np.stack([render(row.scene) for row in rows])
        return cls(copy, calibration, tuple(row.id for row in rows), copy.descriptors(pictures))

    @property
    def threshold(self) -> float:
        return self.calibration["threshold"]

    def of_any(self, grid: xr.Dataset) -> xr.DataArray:
        """Where an image is a copy of any duplicated image, its own or another, as 0 and 1.

        An edit that swaps one training image for another has removed nothing.
        """
        images = grid.image.transpose(..., *PIXELS)
        flat = images.values.reshape(-1, *images.shape[-3:])
        nearest = (self.copy.descriptors(flat) @ self.duplicated.T).amax(1).numpy()
        found = (nearest >= self.threshold).astype(float).reshape(images.shape[:-3])
        like = images.isel(dict.fromkeys(PIXELS, 0), drop=True)
        return like.copy(data=found)


def matches(grid: xr.Dataset, threshold: float, reference: str = "training") -> xr.DataArray:
    """Where an image is a copy of its reference, as 0 and 1."""
    similarity = grid["copy"].sel(reference=reference)
    return (similarity >= threshold).astype(float).where(similarity.notnull())


def levels(grid: xr.Dataset, threshold: float) -> dict[str, Any]:
    """Share of images that copy the training image, and mean similarity, by number of views."""
    at_none = grid.sel(patch="none")
    own = at_none.isel(prompt=np.flatnonzero(at_none.kind != "near_miss"))
    found = {}
    for views in np.unique(own.views):
        level = own.isel(prompt=np.flatnonzero(own.views == views))
        found[str(views)] = {
            "matches": interval(matches(level, threshold)),
            "similarity": interval(level["copy"].sel(reference="training")),
            "images": level.sizes["prompt"],
        }
    return found


def near_misses(grid: xr.Dataset, judge: Judge) -> dict[str, Any]:
    """Titles one word away from a memorized one: do they bring up its picture, or their own?"""
    miss = grid.isel(prompt=np.flatnonzero(grid.kind == "near_miss")).sel(patch="none")
    images = miss.image.transpose("prompt", "seed", ...).values
    made = judge.copy.descriptors(rearrange(images, "p s h w rgb -> (p s) h w rgb"))
    theirs = judge.duplicated[[judge.ids.index(str(name)) for name in miss.partner.values]]
    made = rearrange(made, "(p s) d -> p s d", p=len(theirs))
    similar = (made * rearrange(theirs, "p d -> p 1 d")).sum(-1).numpy()
    copies = miss["copy"].sel(reference="training").transpose("prompt", "seed")
    return {
        "own_image": interval(matches(miss, judge.threshold)),
        "memorized_image": interval(copies.copy(data=(similar >= judge.threshold).astype(float))),
        "captions": miss.sizes["prompt"],
    }


def borrowed(grid: xr.Dataset, judge: Judge) -> dict[str, float | None]:
    """How often a control title, shown once, brings up a duplicated image."""
    control = grid.isel(prompt=np.flatnonzero(grid.kind == "control")).sel(patch="none")
    return interval(judge.of_any(control))


def interval(values: xr.DataArray) -> dict[str, float | None]:
    """Mean and 95 % interval, by training image; NaN, which JSON has not, becomes None."""
    found = intervals.mean(values)
    return {
        name: None if np.isnan(found[name]) else round(float(found[name]), 4)
        for name in ("mean", "low", "high")
    }
