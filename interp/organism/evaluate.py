"""What came out: measured memorization, fidelity, the paper's interventions, and the time it takes.

Everything is a sweep, so a killed evaluation continues, and every figure can be drawn again from
the stores. The numbers go into `evaluation.json`, which the card and the tests read.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange

import interp as ip
from interp.text.files import PromptFile

from . import duplicates, recognise, scenes, templates, vae
from .copies import borrowed, interval, levels, near_misses, of_any

SEEDS = 8
"""Images of every duplicated caption."""
FEWER = 4
"""Images of every other caption."""
EDITED = 2
"""Images of a caption under each patch: captions, not seeds, are what an interval is about."""
HONEST = 100
"""Captions of scenes, one object each."""
GENTLE = 3.0
"""A guidance scale at which colours are less saturated."""
LETTERS = {"prompt": "c", "eot": "f", "pad": "h"}
"""The paper's letters for the removal of one category."""
TOP, PATCHED = 2, 3
"""Levels of views that count as memorized, and levels that are patched."""
KIM_AND_NO = ("repad '!' and zero eot", "repad '!'", "zero pad 70 %")


def evaluate(model: Path, out: Path) -> dict[str, Any]:
    """Measure the model in that folder, and write stores and `evaluation.json` into `out`.

    >>> evaluate(Path("data/organism"), Path("runs/evaluation"))["levels"]["225"]["matches"]
    {'mean': 0.9583, 'low': 0.875, 'high': 1.0}

    Args:
        model: the folder that `build` wrote.
        out: gets `duplicates.zarr`, `patches.zarr`, `honest.zarr`, `templates.zarr`.

    Returns: what is in `evaluation.json`; every mean comes with its 95 % interval, bootstrapped by
    training image.
    """
    out.mkdir(parents=True, exist_ok=True)
    sd = ip.load(model / "eot")
    copy = ip.metrics.SSCD(model / "descriptor.pt", "native")
    clip = ip.metrics.CLIPScore(model / "clip")
    descriptor = json.loads((model / "descriptor.json").read_text())
    threshold = descriptor["threshold"]
    all_shown = shown(sd, model, out, copy)
    edited = patched(sd, model, out, copy, clip)
    edited["of_any"] = of_any(edited, model, copy, threshold)
    found = {
        "descriptor": descriptor,
        "clip_on_real_scenes": recognise.reference(clip),
        "levels": levels(all_shown, threshold),
        "near_misses": near_misses(all_shown, model, copy, threshold),
        "borrowed": borrowed(all_shown, model, copy, threshold),
        "honest": honest(sd, out, copy, clip, threshold),
        "templates": templates.copied(sd, out / "templates.zarr", copy, threshold, FEWER),
        "patches": patches(edited),
        "patches_by_views": by_views(edited),
        "drivers": drivers(edited, threshold),
        "psnr": round(vae.psnr(sd.pipe.vae), 2),
        "seconds": seconds(sd),
        "provenance": provenance(sd, model),
    }
    (out / "evaluation.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def provenance(sd: ip.Session, model: Path) -> dict[str, Any]:
    """The session's, with the model by its own name: its path is of the machine that measured."""
    said = sd.provenance()
    return {**said, "model": {**said["model"], "id": f"{model.resolve().name}/eot"}}


def shown(sd: ip.Session, model: Path, out: Path, copy: ip.metrics.SSCD) -> xr.Dataset:
    """Every duplicated caption, near misses too, with its similarity to its training image."""
    file = ip.read_prompts(model / "memorized.csv")
    rows = [n for n, row in enumerate(file) if row.columns["kind"] != "template"]
    return sweep(sd, file, rows, SEEDS, out / "duplicates.zarr", {"copy": copy}, images=True)


def patched(
    sd: ip.Session, model: Path, out: Path, copy: ip.metrics.SSCD, clip: ip.metrics.CLIPScore
) -> xr.Dataset:
    """The paper's interventions and mitigations on the most shown levels and on controls."""
    file = ip.read_prompts(model / "memorized.csv")
    top = {row.id for row in duplicates.duplicates() if row.views in duplicates.LEVELS[-PATCHED:]}
    rows = [
        n
        for n, row in enumerate(file)
        if row.columns["kind"] == "control" or row.columns["id"] in top
    ]
    edits: dict[str, Any] = dict(ip.paper.interventions())
    edits |= {name: ip.paper.mitigations()[name] for name in KIM_AND_NO}
    metrics = {"copy": copy, "clipscore": clip, "alike": ip.metrics.Diversity(copy)}
    return sweep(sd, file, rows, EDITED, out / "patches.zarr", metrics, edits, images=True)


def sweep(
    sd: ip.Session,
    file: PromptFile,
    rows: Sequence[int],
    seeds: int,
    store: Path,
    metrics: Mapping[str, Any],
    edits: Mapping[str, Any] | None = None,
    images: bool = False,
) -> xr.Dataset:
    """Some rows of the table, compared with their training images."""
    table = [file.rows[n] for n in rows]
    pictures = file.pictures()
    columns = ("id", "kind", "partner")
    return ip.sweep(
        sd,
        [row.text for row in table],
        edits,
        seeds,
        store=store,
        metrics=metrics,
        references=[pictures[n] for n in rows],
        labels={
            **{name: [row.columns[name] for row in table] for name in columns},
            "views": [int(row.columns["views"]) for row in table],
            "group": [row.group for row in table],
        },
        images=images,
    ).load()


def memorized_and_controls(grid: xr.Dataset) -> dict[str, xr.Dataset]:
    """The captions of the top two levels, and those shown once."""
    verbatim = grid.kind == "verbatim"
    top = np.unique(grid.views.where(verbatim, drop=True))[-TOP]
    chosen = {"memorized": verbatim & (grid.views >= top), "control": grid.kind == "control"}
    return {name: grid.isel(prompt=np.flatnonzero(where)) for name, where in chosen.items()}


def patches(grid: xr.Dataset) -> dict[str, Any]:
    """What every patch does to memorized captions and to controls (see `effects`)."""
    return {kind: effects(part) for kind, part in memorized_and_controls(grid).items()}


def by_views(grid: xr.Dataset) -> dict[str, Any]:
    """The same for every level of views by itself: does what drives change with the dose?"""
    return {
        str(views): effects(grid.isel(prompt=np.flatnonzero(grid.views == views)))
        for views in np.unique(grid.views)
    }


def drivers(grid: xr.Dataset, threshold: float) -> dict[str, int]:
    """Of the patched captions shown more than once: how many lose their image with what removed?

    A caption loses it when its images, on average over seeds, are no copies any more.
    """
    shown_often = grid.isel(prompt=np.flatnonzero(grid.views > 1))
    kept = shown_often["copy"].sel(reference="training").mean("seed") >= threshold
    memorized = kept.sel(patch="none")
    lost = {name: memorized & ~kept.sel(patch=letter) for name, letter in LETTERS.items()}
    return {
        "captions": int(memorized.sum()),
        **{name: int(which.sum()) for name, which in lost.items()},
        "both prompt and pad": int((lost["prompt"] & lost["pad"]).sum()),
    }


def effects(part: xr.Dataset) -> dict[str, Any]:
    """Similarities, the share of copies of any duplicated image, CLIPScore, likeness of seeds."""
    return {
        str(name): {
            "to_unedited": interval(here["copy"].sel(reference="baseline")),
            "to_training": interval(here["copy"].sel(reference="training")),
            "of_any": interval(here.of_any),
            "clipscore": interval(here.clipscore),
            "seeds_alike": interval(here.alike),
        }
        for name, here in ((name, part.sel(patch=name)) for name in part.patch.values)
    }


def honest(
    sd: ip.Session,
    out: Path,
    copy: ip.metrics.SSCD,
    clip: ip.metrics.CLIPScore,
    threshold: float,
) -> dict[str, Any]:
    """Captions of scenes: is the named object there, on the named colour, other for every seed?

    At the session's guidance, and at a gentler one: is it the guidance that spoils drawings?
    """
    captions = recognise.some_captions(HONEST)
    grid = ip.sweep(
        sd, [caption.text for caption in captions], None, FEWER, guidance=(sd.guidance, GENTLE),
        store=out / "honest.zarr", metrics={"alike": ip.metrics.Diversity(copy)}, images=True,
    ).load().sel(patch="none")  # fmt: skip
    usual = grid.sel(guidance=sd.guidance)
    return {
        **promises_kept(usual, captions, clip),
        "median_likeness_of_seeds": float(usual.alike.median()),
        "prompts_of_different_seeds": float((usual.alike < threshold).mean()),
        "captions": len(captions),
        "seeds": FEWER,
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
    flat = rearrange(images, "prompt seed h w rgb -> (prompt seed) h w rgb")
    each = [caption for caption in captions for _ in range(FEWER)]
    coloured = np.flatnonzero([caption.colour is not None for caption in each])
    right = recognise.objects(clip, flat, each).reshape(-1, FEWER)
    hue = recognise.colours(clip, flat[coloured], [each[n] for n in coloured]).reshape(-1, FEWER)
    over = ("prompt", "seed")
    return {
        "object": interval(xr.DataArray(right.astype(float), dims=over)),
        "colour": interval(xr.DataArray(hue.astype(float), dims=over)),
    }


def seconds(sd: ip.Session) -> dict[str, float]:
    """Seconds for one image, and images per second in batches, on this machine."""
    began = time.perf_counter()
    sd.images("a picture of a cat")
    one = time.perf_counter() - began
    began = time.perf_counter()
    sd.images("a picture of a cat", seeds=range(16))
    many = time.perf_counter() - began
    return {
        "one_image": round(one, 2),
        "images_per_second": round(16 / many, 2),
        "threads": torch.get_num_threads(),
    }
