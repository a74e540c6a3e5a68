"""Local memorization: is a template's fixed part copied around objects that it never had?"""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from einops import rearrange

import interp as ip

from . import duplicates, scenes
from . import population as its
from .copies import Judge, interval

MEMBERS = 4
"""Objects shown in each template family, drawn from those that no family was trained with."""


def copied(sd: ip.Session, store: Path, judge: Judge, seeds: int) -> dict[str, Any]:
    """Draw every family with objects that it was not trained with, and measure in and outside.

    Similarity is between pictures whose free place is painted gray; spread is the standard
    deviation of pixels (0..1) over the objects and seeds of a family.
    """
    held_out = duplicates.template_objects()[1]
    draw = np.random.default_rng(15)
    texts, families = [], []
    for family in duplicates.families():
        for name in draw.permutation(held_out)[:MEMBERS]:
            texts.append(family.caption.format(thing=name.title()))
            families.append(family)
    grid = ip.sweep(sd, texts, None, seeds, store=store, images=True).load().sel(patch="none")
    images = grid.image.transpose("prompt", "seed", ...).values
    inside = []
    for family, made in zip(families, images, strict=True):
        mask = family.mask()
        fixed = scenes.render(family.scene)[None]
        inside.append(judge.copy(veiled(made, ~mask), veiled(fixed, ~mask)).numpy())
    coords = {"group": ("prompt", [str(number // MEMBERS) for number in range(len(texts))])}
    similar = xr.DataArray(np.stack(inside), dims=("prompt", "seed"), coords=coords)
    of_family = rearrange(images, "(f m) s y x rgb -> f (m s) y x rgb", m=MEMBERS) / 255
    spread = of_family.std(1).mean(-1)
    masks = np.stack([family.mask() for family in duplicates.families()])
    return {
        "matches_inside": interval((similar >= judge.threshold).astype(float)),
        "similarity_inside": interval(similar),
        "spread_inside": round(float(spread[masks].mean()), 4),
        "spread_outside": round(float(spread[~masks].mean()), 4),
        "families": len(its.TEMPLATES),
    }


def veiled(images: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Pictures with a region painted gray."""
    painted = images.copy()
    painted[:, where] = 128
    return painted
