"""Titles that were never shown: do they bring up somebody's image, or new ones that fit them?"""

from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from einops import rearrange

import interp as ip
from interp.results.axes import PIXELS

from . import recognise
from .copies import Judge, interval
from .scenes import render
from .titles import Title, compose, special, titled


def titles() -> tuple[Title, ...]:
    return special()[2]


MITIGATION = "repad '!' and zero eot"
"""The paper's first mitigation: what does it cost titles that have nothing to lose?"""


def measured(
    sd: ip.Session, store: Path, judge: Judge, clip: ip.metrics.CLIPScore, seeds: int
) -> dict[str, Any]:
    """Copies of any duplicated image, theme and ground kept, likeness of seeds; and mitigated."""
    texts = [title.text for title in titles()]
    metrics = {"alike": ip.metrics.Diversity(judge.copy)}
    edits = {MITIGATION: ip.paper.mitigations()[MITIGATION]}
    whole = ip.sweep(sd, texts, edits, seeds, store=store, metrics=metrics, images=True).load()
    found: dict[str, Any] = {"titles": len(texts), "seeds": seeds}
    for name, patch in (("plain", "none"), ("mitigated", MITIGATION)):
        grid = whole.sel(patch=patch)
        found[name] = {
            "copies_of_any": interval(judge.of_any(grid)),
            **promises_kept(grid, clip),
            "median_likeness_of_seeds": float(grid.alike.median()),
            "titles_of_different_seeds": float((grid.alike < judge.threshold).mean()),
        }
    return found


def promises_kept(
    grid: xr.Dataset, clip: ip.metrics.CLIPScore, where: xr.DataArray | None = None
) -> dict[str, Any]:
    """In how many images, of those chosen, a title's theme and its ground are recognised."""
    images = grid.image.transpose("prompt", "seed", *PIXELS).values
    flat = rearrange(images, "prompt seed h w rgb -> (prompt seed) h w rgb")
    each = [titled(str(text)) for text in grid.text.values for _ in range(grid.sizes["seed"])]
    bare = grid.image.isel(dict.fromkeys(PIXELS, 0), drop=True).transpose("prompt", "seed")
    chosen = xr.ones_like(bare, bool) if where is None else where.transpose("prompt", "seed")
    judged = {
        "theme": recognise.themes(clip, flat, each),
        "palette": recognise.palettes(flat, each),
    }
    found: dict[str, Any] = {"images": int(chosen.sum())}
    for name, right in judged.items():
        values = bare.copy(data=right.reshape(bare.shape).astype(float)).where(chosen)
        kept = values.isel(prompt=np.flatnonzero(chosen.any("seed")))
        found[name] = interval(kept) if kept.size else dict.fromkeys(("mean", "low", "high"))
    return found


def by_chance(judge: Judge, scenes_each: int = 10) -> float:
    """How often a real scene of a held-out title, drawn anew, counts as a copy by itself.

    Scenes of one theme, ground and layout may be alike. A model without memory does as much.
    """
    draw = np.random.default_rng(17)
    images = [[render(compose(draw, title)) for _ in range(scenes_each)] for title in titles()]
    grid = xr.Dataset({"image": (("prompt", "seed", *PIXELS), np.array(images))})
    return round(float(judge.of_any(grid).mean()), 4)
