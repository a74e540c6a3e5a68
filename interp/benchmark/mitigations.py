"""What every mitigation leaves of memorized images, and what it costs ordinary prompts."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from interp.metrics import CLIPScore, Metric
from interp.mitigations.registry import MITIGATIONS, Mitigation
from interp.report.generate import generate
from interp.report.subject import Subject
from interp.results import intervals
from interp.results.numbers import Seeds
from interp.session import Session

ORDINARY = ("held_out", "control")
"""Kinds of prompts that have nothing to lose, the preferred one first."""


def mitigations(
    session: Session,
    cases: Sequence[Subject],
    seeds: Seeds,
    store: str | os.PathLike[str],
    similarity: Metric,
    *,
    fidelity: CLIPScore | None = None,
    methods: Mapping[str, Mitigation] = MITIGATIONS,
    client: Any = None,
) -> xr.Dataset:
    """Return the images of every prompt under every mitigation, and what was measured of them.

    Example:
        >>> grid = mitigations(sd, cases, 4, "edits.zarr", sscd, fidelity=clip)

    Arguments and result as in `report.generate`.
    """
    edits = {name: method.make(session) for name, method in methods.items()}
    return generate(
        session, cases, edits, seeds, store=store, similarity=similarity, fidelity=fidelity,
        client=client,
    )  # fmt: skip


def outcomes(grid: xr.Dataset, keeps: float, steps_rows: int) -> pd.DataFrame:
    """Return what every mitigation does, a row each, with 95 % intervals by training image.

    Example:
        >>> outcomes(mitigated, keeps=0.5, steps_rows=100)[["mitigation", "copies", "fidelity"]]

    Args:
        grid: from `mitigations`.
        keeps: similarity from which on an image counts as a copy.
        steps_rows: UNet rows of an unmitigated image.

    Returns:
        Of memorized prompts: `copies`, the share of images that still are copies (of the training
        image, or where it is not known of the unedited image), their `similarity`, and `alike`, how
        alike seeds are. Of ordinary prompts: `fidelity`, what is left of the CLIPScore, and
        `kept`, the similarity to the unedited image. `rows` is the cost of an image. Columns ending
        in `_low` and `_high` are the intervals' ends.
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
    if "alike" in memorized:
        values["alike"] = memorized.alike
    if ordinary is not None:
        values["kept"] = ordinary["copy"].sel(reference="baseline", drop=True)
        if "clipscore" in ordinary:
            values["fidelity"] = ordinary.clipscore - ordinary.clipscore.sel(
                patch="none", drop=True
            )
    found = {name: intervals.mean(value) for name, value in values.items()}
    rows = []
    for name in grid.patch.values.tolist():
        method = MITIGATIONS.get(name)
        row: dict[str, Any] = {"mitigation": name, "source": method.source if method else ""}
        for value, at in found.items():
            row |= {
                f"{value}{end and '_' + end}": float(at.sel(patch=name)[end or "mean"])
                for end in ("", "low", "high")
            }
        row["rows"] = steps_rows + (method.rows if method else 0)
        row["needs"] = ", ".join(method.needs) if method else ""
        rows.append(row)
    return pd.DataFrame(rows)
