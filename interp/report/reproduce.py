"""A paper's tables next to ours: the edits or detectors that it measured, in its own setting.

    reproduce(sd, preset("kim-no"), cases, Path("out/kim-no"), similarity=sscd)

Agreement is judged by intervals: a published figure is within ours or not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from interp import detect, paper, plot
from interp.metrics import CLIPScore, Metric
from interp.report import tables
from interp.report.generate import generate
from interp.report.presets import Preset
from interp.report.scanned import scanned
from interp.report.subject import Subject
from interp.results.numbers import Seeds
from interp.session import Session

log = logging.getLogger(__name__)

MEASURES = {
    "copy": ("sscd", "similarity to the unedited image"),
    "clipscore": ("clipscore", "CLIPScore"),
    "aesthetic": ("aesthetic", "aesthetic score"),
}
"""Our variables, the paper's measures they correspond to, and their names in figures."""


def edits() -> dict[str, Any]:
    """The edits in the paper's two tables, by name."""
    return {**paper.interventions(), **paper.mitigations()}


def reproduce(
    session: Session,
    preset: Preset,
    cases: Sequence[Subject],
    out: Path,
    seeds: Seeds,
    *,
    similarity: Metric,
    fidelity: CLIPScore | None = None,
    aesthetic: Metric | None = None,
    client: Any = None,
) -> pd.DataFrame:
    """Run what a paper ran, write its tables and figures, and return the table.

    Example:
        >>> reproduce(sd, preset("wen"), cases, Path("out/wen"), 4, similarity=sscd)

    Args:
        session: pipeline and settings.
        preset: the paper.
        cases: memorized prompts and controls.
        out: the folder, created if necessary; the same call resumes its store.
        seeds: how many, or which; the paper's are `preset.seeds`.
        similarity, fidelity, aesthetic: metrics; the last two may be missing, and so will their
            columns. Detectors need none.
        client: a Dask client whose workers share the prompts.

    Returns:
        A row for each edit or detector, kind of prompt and measure: `ours` with its interval,
        `paper`, the `difference`, and whether the paper's figure is `inside` the interval.
    """
    out.mkdir(parents=True, exist_ok=True)
    if preset.tables == "edits":
        more = {} if aesthetic is None else {"aesthetic": aesthetic}
        grid = generate(
            session, cases, edits(), seeds, store=out / "edits.zarr", similarity=similarity,
            fidelity=fidelity, more=more, client=client,
        )  # fmt: skip
        values = measured(grid)
        compared = of_edits(grid, values, preset)
        figure = _bars(values, preset)
    else:
        log.info("detectors' scores of %d prompts", len(cases))
        scores = scanned(session, cases, seeds, out / "scores.zarr", client)
        found = curves(scores, preset)
        compared = of_detectors(found, preset)
        figure = plot.roc(found)
    plot.save(figure, out / "figures", "reproduced")
    _write(compared, preset, out)
    return compared


def measured(grid: xr.Dataset) -> dict[str, xr.DataArray]:
    """The paper's measures from a sweep; similarities are to the unedited image."""
    found = {name: grid[name] for name in MEASURES if name in grid}
    return {
        name: value.sel(reference="baseline", drop=True) if "reference" in value.dims else value
        for name, value in found.items()
    }


def of_edits(grid: xr.Dataset, values: dict[str, xr.DataArray], preset: Preset) -> pd.DataFrame:
    """Every measure of every edit next to the paper's figure, which is for memorized prompts."""
    long = tables.effects(grid, values).rename(columns={"patch": "name", "value": "measure"})
    published = {name: preset.published(MEASURES[name][0]) for name in values}
    figures = [
        published[row.measure].get(row.name) if row.kind == "memorized" else None
        for row in long.itertuples(index=False)
    ]
    return _compared(long.assign(paper=figures))


def curves(scores: xr.DataArray, preset: Preset) -> dict[str, xr.Dataset]:
    """The ROC curve of each of the paper's detectors."""
    sides = [scores.isel(prompt=np.flatnonzero(scores.kind == k)) for k in ("memorized", "control")]
    return {
        name: detect.roc(*(side.sel(detector=name, drop=True) for side in sides))
        for name in preset.detectors
    }


def of_detectors(found: Mapping[str, xr.Dataset], preset: Preset) -> pd.DataFrame:
    """AUC and true positive rate of the paper's detectors next to its figures."""
    rows = []
    for name, curve in found.items():
        at = curve.sel(fpr=0.01)
        for measure, value in (("auc", "auc"), ("tpr_at_1_percent", "tpr")):
            mean, low, high = (float(at[f"{value}{end}"]) for end in ("", "_low", "_high"))
            figure = preset.published(measure)[name]
            rows.append(
                {"name": name, "measure": measure, "mean": mean, "low": low, "high": high,
                 "paper": figure}
            )  # fmt: skip
    return _compared(pd.DataFrame(rows))


def agreement(compared: pd.DataFrame) -> dict[str, dict[str, float]]:
    """For each measure, how many figures are within our intervals, and the rank correlation.

    Example:
        >>> agreement(table)["copy"]
        {'figures': ..., 'inside': ..., 'spearman': ...}
    """
    found = {}
    for measure, rows in compared[compared.paper.notna()].groupby("measure", sort=False):
        ranks = spearmanr(rows["ours"], rows["paper"]).statistic if len(rows) > 2 else float("nan")
        found[str(measure)] = {
            "figures": len(rows), "inside": int(rows.inside.sum()), "spearman": float(ranks)
        }  # fmt: skip
    return found


def _compared(long: pd.DataFrame) -> pd.DataFrame:
    found = long.rename(columns={"mean": "ours"})
    found["paper"] = pd.to_numeric(found["paper"])
    found["difference"] = found["ours"] - found["paper"]
    inside = (found["low"] <= found["paper"]) & (found["paper"] <= found["high"])
    found["inside"] = inside.where(found["paper"].notna() & found["low"].notna())
    return found


def _write(compared: pd.DataFrame, preset: Preset, out: Path) -> None:
    compared.to_csv(out / "reproduced.csv", index=False, float_format="%.6g", lineterminator="\n")
    lines = [f"# {preset.facts['title']}", "", f"{preset.facts['reference']}. Its figures: "
             f"{preset.facts['figures_from']}.", ""]  # fmt: skip
    for measure, found in agreement(compared).items():
        rank = f", rank correlation {found['spearman']:.2f}" if found["figures"] > 2 else ""
        lines.append(
            f"- {measure}: {found['inside']} of {found['figures']} published figures are within "
            f"our 95 % intervals{rank}."
        )
    text = compared.assign(
        name=compared.name.map(paper.label),
        ours=[tables.interval(row) for row in compared.assign(mean=compared.ours).itertuples()],
        paper=compared.paper.map(_number),
        difference=compared.difference.map(_number),
        inside=compared.inside.map({True: "yes", False: "no"}).fillna(""),
    ).drop(columns=["low", "high"])
    lines += ["", text.map(tables.cell).to_markdown(index=False, disable_numparse=True), ""]
    (out / "reproduced.md").write_text("\n".join(lines), encoding="utf-8")


def _number(value: float) -> str:
    return "" if value != value else f"{value:.2f}"


def _bars(values: Mapping[str, xr.DataArray], preset: Preset) -> Figure:
    """The table of edits as bars, marked with the paper's figures."""
    shown = xr.Dataset({MEASURES[name][1]: value for name, value in values.items()})
    shown = shown.assign_coords(patch=[paper.label(str(name)) for name in shown.patch.values])
    published = {
        MEASURES[name][1]: {
            paper.label(edit): figure
            for edit, figure in preset.published(MEASURES[name][0]).items()
        }
        for name in values
    }
    return plot.ablation(shown, published)
