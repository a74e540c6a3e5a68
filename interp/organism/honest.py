"""Captions that say what is shown: is it there, on the ground they name, other for every seed?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from einops import rearrange

import interp as ip

from . import recognise, scenes
from .copies import Judge, interval

CAPTIONS = 72
"""One for each object."""
GENTLE = 3.0
"""A guidance scale at which colours are less saturated."""


def measured(
    sd: ip.Session, store: Path, judge: Judge, clip: ip.metrics.CLIPScore, seeds: int
) -> dict[str, Any]:
    """At the session's guidance, and at a gentler one: is it the guidance that spoils drawings?"""
    captions = recognise.some_captions(CAPTIONS)
    grid = ip.sweep(
        sd, [caption.text for caption in captions], None, seeds, guidance=(sd.guidance, GENTLE),
        store=store, metrics={"alike": ip.metrics.Diversity(judge.copy)}, images=True,
    ).load().sel(patch="none")  # fmt: skip
    usual = grid.sel(guidance=sd.guidance)
    return {
        **promises_kept(usual, captions, clip),
        "median_likeness_of_seeds": float(usual.alike.median()),
        "prompts_of_different_seeds": float((usual.alike < judge.threshold).mean()),
        "captions": len(captions),
        "seeds": seeds,
        "guidance": sd.guidance,
        "gentle": {
            "guidance": GENTLE,
            **promises_kept(grid.sel(guidance=GENTLE), captions, clip),
        },
    }


def promises_kept(
    grid: xr.Dataset, captions: Sequence[scenes.Caption], clip: ip.metrics.CLIPScore
) -> dict[str, Any]:
    """In how many images the named object and the named background colour are recognised."""
    images = grid.image.transpose("prompt", "seed", ...).values
    seeds = images.shape[1]
    flat = rearrange(images, "prompt seed h w rgb -> (prompt seed) h w rgb")
    each = [caption for caption in captions for _ in range(seeds)]
    coloured = np.flatnonzero([caption.colour is not None for caption in each])
    right = recognise.objects(clip, flat, each).reshape(-1, seeds)
    hue = recognise.colours(clip, flat[coloured], [each[n] for n in coloured]).reshape(-1, seeds)
    over = ("prompt", "seed")
    return {
        "object": interval(xr.DataArray(right.astype(float), dims=over)),
        "colour": interval(xr.DataArray(hue.astype(float), dims=over)),
    }
