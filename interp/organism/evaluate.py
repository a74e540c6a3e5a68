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

import interp as ip
from interp.text.files import PromptFile

from . import (
    detection,
    duplicates,
    held_out,
    honest,
    population,
    recognise,
    removal,
    templates,
    vae,
)
from .copies import Judge, borrowed, interval, levels, near_misses

SEEDS = 8
"""Images of every title in the table."""
FEWER = 4
"""Images of honest captions and templates."""
EDITED = 2
"""Images of a title that is held out, or under each patch: titles, not seeds, are what an interval
is about."""
TOP, PATCHED = 2, 3
"""Levels of views that count as memorized, and levels that are patched."""
KIM_AND_NO = ("repad '!' and zero eot", "repad '!'", "zero pad 70 %")


def evaluate(model: Path, out: Path, name: str = "eot") -> dict[str, Any]:
    """Measure one of the models in that folder, and write stores and `evaluation.json` into `out`.

    Example:
        >>> evaluate(Path("data/organism"), Path("runs/evaluation"))["levels"]["960"]["matches"]
        {'mean': 1.0, 'low': 1.0, 'high': 1.0}

    Args:
        model: the folder that `build` wrote.
        out: gets `duplicates.zarr`, `patches.zarr`, `held_out.zarr`, `honest.zarr`,
            `templates.zarr` and `detectors.nc`; a killed evaluation goes on from them.
        name: the model's folder, one of `build.PADS`.

    Returns:
        what is in `evaluation.json`; every mean comes with its 95 % interval, bootstrapped by
        training image.
    """
    out.mkdir(parents=True, exist_ok=True)
    sd = ip.load(model / name)
    judge = Judge.of(model)
    clip = ip.metrics.CLIPScore(model / "clip")
    titles = shown(sd, model, out, judge)
    under = patched(sd, model, out, judge, clip)
    under["of_any"] = judge.of_any(under)
    found = {
        "descriptor": judge.calibration,
        "judges_on_real_scenes": {
            **recognise.reference(clip), "copies_of_any": held_out.by_chance(judge)
        },
        "levels": levels(titles, judge.threshold),
        "near_misses": near_misses(titles, judge),
        "controls": borrowed(titles, judge),
        "held_out": held_out.measured(sd, out / "held_out.zarr", judge, clip, EDITED),
        "honest": honest.measured(sd, out / "honest.zarr", judge, clip, FEWER),
        "templates": templates.copied(sd, out / "templates.zarr", judge, FEWER),
        "patches": patches(under, clip),
        "patches_by_views": by_views(under, clip),
        "drivers": removal.drivers(under, judge.threshold),
        "detectors": detection.measured(sd, model, out / "detectors.nc", EDITED),
        "psnr": round(vae.psnr(sd.pipe.vae), 2),
        "seconds": seconds(sd),
        "provenance": provenance(sd, model, name),
    }  # fmt: skip
    (out / "evaluation.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


def provenance(sd: ip.Session, model: Path, name: str) -> dict[str, Any]:
    """The session's, with the model by its own name: its path is of the machine that measured."""
    said = sd.provenance()
    return {**said, "model": {**said["model"], "id": f"{model.resolve().name}/{name}"}}


def shown(sd: ip.Session, model: Path, out: Path, judge: Judge) -> xr.Dataset:
    """Every title in the table, near misses too, with its similarity to its training image."""
    file = ip.read_prompts(model / "memorized.csv")
    rows = [n for n, row in enumerate(file) if row.columns["kind"] != "template"]
    return sweep(sd, file, rows, SEEDS, out / "duplicates.zarr", {"copy": judge.copy})


def patched(
    sd: ip.Session, model: Path, out: Path, judge: Judge, clip: ip.metrics.CLIPScore
) -> xr.Dataset:
    """Interventions, mitigations and removals on the most shown levels and on controls."""
    edits: dict[str, Any] = dict(ip.paper.interventions())
    edits |= {name: ip.paper.mitigations()[name] for name in KIM_AND_NO}
    edits |= removal.removals(sd)
    metrics = {"copy": judge.copy, "clipscore": clip, "alike": ip.metrics.Diversity(judge.copy)}
    return edited(sd, model, out / "patches.zarr", metrics, edits, EDITED)


def edited(
    sd: ip.Session,
    model: Path,
    store: Path,
    metrics: Mapping[str, Any],
    edits: Mapping[str, Any],
    seeds: int,
) -> xr.Dataset:
    """The most shown levels and the controls under these edits."""
    file = ip.read_prompts(model / "memorized.csv")
    often = population.LEVELS[-PATCHED:]
    top = {row.id for row in duplicates.duplicates() if row.views in often}
    rows = [
        n
        for n, row in enumerate(file)
        if row.columns["kind"] == "control" or row.columns["id"] in top
    ]
    return sweep(sd, file, rows, seeds, store, metrics, edits)


def sweep(
    sd: ip.Session,
    file: PromptFile,
    rows: Sequence[int],
    seeds: int,
    store: Path,
    metrics: Mapping[str, Any],
    edits: Mapping[str, Any] | None = None,
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
        images=True,
    ).load()


def memorized_and_controls(grid: xr.Dataset) -> dict[str, xr.Dataset]:
    """The titles of the top two levels, and those shown once."""
    verbatim = grid.kind == "verbatim"
    top = np.unique(grid.views.where(verbatim, drop=True))[-TOP:]
    chosen = {
        "memorized": verbatim & np.isin(grid.views, top),
        "control": grid.kind == "control",
    }
    return {name: grid.isel(prompt=np.flatnonzero(where)) for name, where in chosen.items()}


def patches(grid: xr.Dataset, clip: ip.metrics.CLIPScore) -> dict[str, Any]:
    """What every patch does to memorized titles and to controls (see `effects`)."""
    return {kind: effects(part, clip) for kind, part in memorized_and_controls(grid).items()}


def by_views(grid: xr.Dataset, clip: ip.metrics.CLIPScore) -> dict[str, Any]:
    """The same for every level of views by itself: does what drives change with the dose?"""
    return {
        str(views): effects(grid.isel(prompt=np.flatnonzero(grid.views == views)), clip)
        for views in np.unique(grid.views)
    }


def effects(part: xr.Dataset, clip: ip.metrics.CLIPScore) -> dict[str, Any]:
    """Of every patch: similarities, copies of any duplicated image, and what is left of the title.

    `freed` is about images that are no copies: do they still show the title's theme on its ground?
    """
    return {
        str(name): {
            "to_unedited": interval(here["copy"].sel(reference="baseline")),
            "to_training": interval(here["copy"].sel(reference="training")),
            "of_any": interval(here.of_any),
            "clipscore": interval(here.clipscore),
            "seeds_alike": interval(here.alike),
            "freed": held_out.promises_kept(here, clip, where=here.of_any == 0),
        }
        for name, here in ((name, part.sel(patch=name)) for name in part.patch.values)
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
