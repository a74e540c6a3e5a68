"""Whose training image does a caption bring up: its own, a neighbour's, anyone's?"""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from einops import rearrange

import interp as ip
from interp.results import intervals


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


def near_misses(
    grid: xr.Dataset, model: Path, copy: ip.metrics.SSCD, threshold: float
) -> dict[str, Any]:
    """Captions one word away from a memorized one: do they bring up its picture, or their own?"""
    file = ip.read_prompts(model / "memorized.csv")
    pictures = {
        row.columns["id"]: image
        for row, image in zip(file, file.pictures(), strict=True)
        if image is not None
    }
    miss = grid.isel(prompt=np.flatnonzero(grid.kind == "near_miss")).sel(patch="none")
    images = miss.image.transpose("prompt", "seed", ...).values
    pairs = zip(images, miss.partner.values, strict=True)
    theirs = np.stack([copy(made, pictures[str(partner)]).numpy() for made, partner in pairs])
    copies = xr.DataArray((theirs >= threshold).astype(float), dims=("prompt", "seed"))
    return {
        "own_image": interval(matches(miss, threshold)),
        "memorized_image": interval(copies),
        "captions": miss.sizes["prompt"],
    }


def borrowed(
    grid: xr.Dataset, model: Path, copy: ip.metrics.SSCD, threshold: float
) -> dict[str, float]:
    """How often a control caption, shown once, brings up a duplicated image."""
    control = grid.isel(prompt=np.flatnonzero(grid.kind == "control")).sel(patch=["none"])
    return interval(of_any(control, model, copy, threshold).sel(patch="none"))


def of_any(grid: xr.Dataset, model: Path, copy: ip.metrics.SSCD, threshold: float) -> xr.DataArray:
    """Where an image is a copy of any duplicated image, its own or another, as 0 and 1.

    An edit that swaps one training image for another has removed nothing.
    """
    file = ip.read_prompts(model / "memorized.csv")
    duplicated = [
        picture
        for row, picture in zip(file, file.pictures(), strict=True)
        if row.columns["kind"] == "verbatim" and picture is not None
    ]
    dims = ("patch", "prompt", "seed")
    images = grid.image.transpose(*dims, ...).values
    flat = rearrange(images, "patch prompt seed h w rgb -> (patch prompt seed) h w rgb")
    nearest = (copy.descriptors(flat) @ copy.descriptors(duplicated).T).amax(1).numpy()
    found = (nearest >= threshold).astype(float).reshape(images.shape[:3])
    return xr.DataArray(found, dims=dims, coords={"patch": grid.patch.values})


def interval(values: xr.DataArray) -> dict[str, float]:
    found = intervals.mean(values)
    return {name: round(float(found[name]), 4) for name in ("mean", "low", "high")}
