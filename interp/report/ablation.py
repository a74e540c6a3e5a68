"""The paper's sections 3 and 4 for any model: what is left of an image when embeddings are edited.

Tables and figures from a sweep over edits and the unedited runs; nothing is generated here.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from interp import detect, paper, plot
from interp.report import tables
from interp.report.cases import UNKNOWN
from interp.session import Session
from interp.text.encoding import encode

SIMILAR = "copy"
COLUMNS = 8
"""Prompts of each kind in an image grid."""


def ablation(
    session: Session, grid: xr.Dataset, unedited: xr.Dataset, out: Path, keeps: float
) -> None:
    """Write the ablation's tables, and its figures to `figures/`.

    Example:
        >>> unedited = observe(sd, cases, 4, sscd)
        >>> grid = generate(sd, cases, edits(), 2, store="edits.zarr", similarity=sscd)
        >>> ablation(sd, grid, unedited, Path("out"), 0.5)

    Args:
        session: its text encoder is shown.
        grid: from `generate`, with all edits.
        unedited: from `observe`, with the same prompts.
        out: the folder, created if necessary.
        keeps: the similarity from which an image counts as kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    table(grid, out, keeps)
    for name, figure in figures(session, grid, unedited).items():
        plot.save(figure, out / "figures", name)
    detection(unedited, out)


def values(grid: xr.Dataset) -> dict[str, xr.DataArray]:
    """The values in the table and the bars, by name."""
    found = {"to unedited": grid[SIMILAR].sel(reference="baseline", drop=True)}
    training = grid[SIMILAR].sel(reference="training", drop=True)
    if bool(training.notnull().any()):
        found["to training image"] = training
    if "clipscore" in grid:
        found["CLIPScore"] = grid.clipscore
    if "alike" in grid:
        found["likeness of seeds"] = grid.alike
    return found


def table(grid: xr.Dataset, out: Path, keeps: float) -> pd.DataFrame:
    """Write `ablation.csv`, `.md` and `.tex`, and return the readable table.

    If it is known how often training images were shown, also write `levels`: similarity to them.
    """
    shown = values(grid)
    long = tables.effects(grid, shown)
    wide = tables.readable(long, paper.published(), keeps)
    tables.write(long, wide, out, "ablation")
    if levels_known(grid):
        name = "to training image"
        of_levels = tables.effects(grid, {name: shown[name]}, by="views")
        tables.write(of_levels, tables.by_level(of_levels, name), out, "levels")
    return wide


def levels_known(grid: xr.Dataset) -> bool:
    """Whether the numbers of views are known and differ."""
    return bool((grid.views != UNKNOWN).all()) and len(np.unique(grid.views)) > 1


def figures(session: Session, grid: xr.Dataset, unedited: xr.Dataset) -> dict[str, Any]:
    """Every figure of the sweep and of the unedited runs, by file name."""
    pads = grid[SIMILAR].sel(reference="baseline", patch="h", drop=True)
    pads = pads.rename("to unedited, pads zeroed")
    grid = grid.assign_coords(patch=[paper.label(str(name)) for name in grid.patch.values])
    shown = xr.Dataset(values(grid))
    published = {paper.label(name): value for name, value in paper.published().items()}
    drawn = {"ablation": plot.ablation(shown, {"to unedited": published})}
    for kind in dict.fromkeys(grid.kind.values.tolist()):
        of = grid.isel(prompt=np.flatnonzero(grid.kind == kind)[:COLUMNS])
        drawn[f"images_{kind}"] = plot.image_grid(of.image.isel(seed=0))
    if levels_known(grid):
        drawn["views"] = plot.views_curve(shown["to training image"].sel(patch="none"))
    # Heads are already averaged, but the figures expect the axis.
    attention = unedited[["mass", "tokens"]].expand_dims(head=1)
    drawn["mass_over_steps"] = plot.mass_over_steps(attention)
    drawn["mass_over_layers"] = plot.mass_over_layers(attention)
    length = unedited.tokens.sel(category="prompt").values
    drawn["length"] = plot.length_curve(pads.assign_coords(length=("prompt", length)))
    texts = [str(text) for text in grid.text.values[grid.kind.values == "memorized"]]
    paddings = {
        "padded with <eot>": encode(session.pipe, texts),
        "padded with !": encode(session.pipe, texts, pad_token="!"),
    }
    drawn["pad_similarity"] = plot.pad_similarity(paddings)
    drawn["embedding_pca"] = plot.embedding_pca(paddings)
    return drawn


def detection(unedited: xr.Dataset, out: Path) -> None:
    """Every detector on the unedited runs: scores, ROC, and thresholds from the controls."""
    scores = unedited.score.to_dataset("detector")
    memorized = scores.isel(prompt=np.flatnonzero(scores.kind == "memorized"))
    control = scores.isel(prompt=np.flatnonzero(scores.kind == "control"))
    if not control.sizes["prompt"]:
        return
    names = [str(name) for name in scores.data_vars]
    curves = {name: detect.roc(memorized[name], control[name]) for name in names}
    thresholds = {name: detect.calibrate(control[name]) for name in names}
    plot.save(plot.roc(curves), out / "figures", "roc")
    plot.save(plot.detector_scores(scores, thresholds), out / "figures", "detector_scores")
    rows = [
        {
            "detector": name,
            **{end: float(curve[end]) for end in ("auc", "auc_low", "auc_high")},
            "tpr_at_1_percent": float(curve.tpr.sel(fpr=0.01)),
            "threshold": thresholds[name],
        }
        for name, curve in curves.items()
    ]
    frame = pd.DataFrame(rows)
    frame.to_csv(out / "detection.csv", index=False, float_format="%.6g", lineterminator="\n")
    (out / "detection.md").write_text(frame.to_markdown(index=False, floatfmt=".3f") + "\n")
