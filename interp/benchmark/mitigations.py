"""What every mitigation leaves of memorized images, and what it costs ordinary prompts."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from interp.benchmark.registry import MITIGATIONS, Mitigation
from interp.metrics import CLIPScore, Metric
from interp.patch import Patch
from interp.report.generate import generate
from interp.report.subject import Subject
from interp.results import intervals
from interp.results.numbers import Seeds
from interp.session import Rewrite, Session
from interp.sweep.each_prompt import each_prompt
from interp.text.prompt import Prompt

ORDINARY = ("held_out", "control")
"""Kinds of prompts that have nothing to lose, the preferred one first."""
TOP = 3
"""Images of a prompt that MemBench averages, the most similar ones."""


def mitigations(
    session: Session,
    cases: Sequence[Subject],
    seeds: Seeds,
    store: str | os.PathLike[str],
    similarity: Metric,
    edits: Mapping[str, Patch | Rewrite],
    *,
    fidelity: CLIPScore | None = None,
    client: Any = None,
) -> xr.Dataset:
    """Return the images of every prompt under every mitigation, and what was measured of them.

    Example:
        >>> edits = made(Known(sd, captions), MITIGATIONS)
        >>> grid = mitigations(sd, cases, 4, "out/edits.zarr", sscd, edits, fidelity=clip)

    Arguments and result as in `report.generate`, with the cost of every mitigation beside: `seconds
    (patch)`, of one image made alone. They are kept beside the store, as `*_seconds.zarr`.
    """
    grid = generate(
        session, cases, edits, seeds, store=store, similarity=similarity, fidelity=fidelity,
        client=client,
    )  # fmt: skip
    beside = os.fspath(store).removesuffix(".zarr") + "_seconds.zarr"
    return grid.assign(seconds=("patch", seconds(session, cases[0].text, edits, beside)))


def seconds(
    session: Session,
    text: str,
    edits: Mapping[str, Patch | Rewrite],
    store: str | os.PathLike[str],
) -> list[float]:
    """Return how long one image takes, without a mitigation and with each.

    Example:
        >>> seconds(sd, "a goat", edits, "out/seconds.zarr")

    One image alone, search included: what a user waits for. In batches it is less.
    """

    def timed(number: int, prompt: Prompt) -> xr.Dataset:
        found = []
        session.run(prompt, [0])  # the first call is slower
        for edit in (None, *edits.values()):
            began = time.perf_counter()
            session.run(prompt, [0], edit)
            found.append(time.perf_counter() - began)
        return xr.Dataset({"seconds": (("patch", "prompt"), np.array(found)[:, None])})

    said = {name: edit.to_json() for name, edit in edits.items()}
    kept = each_prompt(session, [text], 1, store, timed, labels={}, settings={"edits": said})
    return kept.seconds.isel(prompt=0).values.tolist()


def outcomes(
    grid: xr.Dataset,
    keeps: float,
    steps: int,
    methods: Mapping[str, Mitigation] = MITIGATIONS,
    *,
    guided: bool = True,
) -> pd.DataFrame:
    """Return what every mitigation does, a row each, with 95 % intervals by training image.

    Example:
        >>> outcomes(grid, keeps=0.5, steps=50)[["mitigation", "copies", "fidelity"]]

    Args:
        grid: from `mitigations`.
        keeps: similarity from which on an image counts as a copy.
        steps: UNet calls of a run.
        methods: for sources, needs and rows.
        guided: whether a call has two rows.

    Returns:
        Of memorized prompts: `copies`, the share of images that still are copies (of the training
        image, or where it is not known of the unedited image), their `similarity`, `top`, the mean
        of each prompt's three most similar images (MemBench's), `freed`, what images that are no
        copies have more of CLIPScore than their unedited ones, and `alike`, how alike seeds are. Of
        ordinary prompts: `fidelity`, the change of the CLIPScore, and `kept`, the similarity to the
        unedited image. Cost of an image: UNet `rows` and `seconds`. Columns ending in `_low` and
        `_high` are the intervals' ends.
    """
    memorized = grid.isel(prompt=np.flatnonzero(grid.kind == "memorized"))
    kinds = set(grid.kind.values.tolist())
    usual = next((kind for kind in ORDINARY if kind in kinds), None)
    ordinary = None if usual is None else grid.isel(prompt=np.flatnonzero(grid.kind == usual))
    training = memorized["copy"].sel(reference="training", drop=True)
    unedited = memorized["copy"].sel(reference="baseline", drop=True)
    similar = training.where(training.notnull(), unedited)
    values = {
        "copies": (similar >= keeps).astype(float).where(similar.notnull()),
        "similarity": similar,
    }
    if grid.sizes["seed"] >= TOP:
        most = np.sort(similar.transpose(..., "seed").values, axis=-1)[..., -TOP:]
        values["top"] = similar.isel(seed=slice(TOP)).transpose(..., "seed").copy(data=most)
    if "alike" in memorized:
        values["alike"] = memorized.alike
    if "clipscore" in grid:
        values["freed"] = _gain(memorized).where(similar < keeps)
    if ordinary is not None:
        values["kept"] = ordinary["copy"].sel(reference="baseline", drop=True)
        if "clipscore" in grid:
            values["fidelity"] = _gain(ordinary)
    found = {name: intervals.mean(value) for name, value in values.items()}
    rows = []
    for name in grid.patch.values.tolist():
        method = methods.get(name)
        row: dict[str, Any] = {"mitigation": name, "source": method.source if method else ""}
        for value, at in found.items():
            row |= {
                f"{value}{end and '_' + end}": float(at.sel(patch=name)[end or "mean"])
                for end in ("", "low", "high")
            }
        own = method.rows + method.each_step * steps if method else 0
        row["rows"] = steps * (2 if guided else 1) + own
        if "seconds" in grid:
            row["seconds"] = float(grid.seconds.sel(patch=name))
        row["needs"] = ", ".join(method.needs) if method else ""
        rows.append(row)
    return pd.DataFrame(rows)


def _gain(grid: xr.Dataset) -> xr.DataArray:
    """How much more CLIPScore an image has than the unedited one."""
    return grid.clipscore - grid.clipscore.sel(patch="none", drop=True)
