"""The paper's sections 3 and 4 on any model: what is left of an image when embeddings are edited.

    python -m analyses.ablation_figures                  # the embedded model, into out/ablation
    python -m analyses.ablation_figures --model CompVis/stable-diffusion-v1-4 \
        --prompts memorized.csv --controls controls.csv --sscd sscd_disc_mixup.torchscript.pt
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
import xarray as xr

import interp as ip
from analyses import tables
from analyses.cases import UNKNOWN, Case, chosen
from analyses.measures import Measures
from interp import detect, plot, report
from interp.cli.options import (
    Clip,
    Controls,
    Descriptor,
    Device,
    Dtype,
    Limit,
    Model,
    Seeds,
    Steps,
    Store,
    Suspects,
)

SIMILAR = "copy"
COLUMNS = 8
"""Prompts of each kind in an image grid."""


OUT = Path("out/ablation")


def main(
    model: Model = "embedded",
    prompts: Suspects = None,
    controls: Controls = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")] = OUT,
    store: Store = None,
    limit: Limit = 8,
    seeds: Seeds = 2,
    steps: Steps = 50,
    sscd: Descriptor = None,
    clip: Clip = None,
    device: Device = None,
    dtype: Dtype = None,
) -> xr.Dataset:
    """Run every intervention and mitigation, and write tables and figures.

    Returns: the sweep, which is also in the store; run again, it continues there.
    """
    out.mkdir(parents=True, exist_ok=True)
    sd = ip.load(model, dtype, device, steps=steps)
    cases = chosen(prompts, controls, limit)
    measures = Measures.of(model, sscd, clip)
    cases = measures.fitted(cases, sd)
    grid = report.generate(
        sd,
        cases,
        report.edits(full=True),
        seeds,
        store=store or out / "ablation.zarr",
        similarity=measures.copy,
        fidelity=measures.clip,
    )
    table(grid, out, measures.keeps)
    for name, figure in figures(sd, grid, cases, seeds).items():
        plot.save(figure, out / "figures", name)
    detection(sd, cases, seeds, out)
    return grid


def values(grid: xr.Dataset) -> dict[str, xr.DataArray]:
    """What the table and the bars show, by name."""
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
    """Write `ablation.csv`, `.md` and `.tex`, and return the table to read.

    Where it is known how often training images were shown, also `levels`: similarity to them.
    """
    shown = values(grid)
    long = tables.effects(grid, shown)
    wide = tables.readable(long, ip.paper.published(), keeps)
    tables.write(long, wide, out, "ablation")
    if levels_known(grid):
        name = "to training image"
        of_levels = tables.effects(grid, {name: shown[name]}, by="views")
        tables.write(of_levels, tables.by_level(of_levels, name), out, "levels")
    return wide


def levels_known(grid: xr.Dataset) -> bool:
    """Whether it is known how often training images were shown, and not all were alike."""
    return bool((grid.views != UNKNOWN).all()) and len(np.unique(grid.views)) > 1


def figures(sd: ip.Session, grid: xr.Dataset, cases: Sequence[Case], seeds: int) -> dict[str, Any]:
    """Every figure of the sweep and of the unedited runs, by file name."""
    pads = grid[SIMILAR].sel(reference="baseline", patch="h", drop=True)
    pads = pads.rename("to unedited, pads zeroed")
    grid = grid.assign_coords(patch=[ip.paper.label(str(name)) for name in grid.patch.values])
    shown = xr.Dataset(values(grid))
    published = {ip.paper.label(name): value for name, value in ip.paper.published().items()}
    drawn = {"ablation": plot.ablation(shown, {"to unedited": published})}
    for kind in dict.fromkeys(grid.kind.values.tolist()):
        of = grid.isel(prompt=np.flatnonzero(grid.kind == kind)[:COLUMNS])
        drawn[f"images_{kind}"] = plot.image_grid(of.image.isel(seed=0))
    if levels_known(grid):
        drawn["views"] = plot.views_curve(shown["to training image"].sel(patch="none"))
    mass = sd.run([case.text for case in cases], range(seeds), record=ip.mass)
    labelled = {"kind": ("prompt", grid.kind.values), "group": ("prompt", grid.group.values)}
    mass = mass.assign_coords(labelled)
    drawn["mass_over_steps"] = plot.mass_over_steps(mass)
    drawn["mass_over_layers"] = plot.mass_over_layers(mass)
    length = [prompt.counts["prompt"] for prompt in sd.encode([case.text for case in cases])]
    drawn["length"] = plot.length_curve(pads.assign_coords(length=("prompt", length)))
    texts = [case.text for case in cases if case.kind == "memorized"]
    paddings = {
        "padded with <eot>": ip.encode(sd.pipe, texts),
        "padded with !": ip.encode(sd.pipe, texts, pad_token="!"),
    }
    drawn["pad_similarity"] = plot.pad_similarity(paddings)
    drawn["embedding_pca"] = plot.embedding_pca(paddings)
    return drawn


def detection(sd: ip.Session, cases: Sequence[Case], seeds: int, out: Path) -> None:
    """Every detector on the unedited runs: scores, ROC, and thresholds from the controls."""
    scores = detect.scan(sd, [case.text for case in cases], range(seeds))
    labelled = {
        "kind": ("prompt", [case.kind for case in cases]),
        "group": ("prompt", [case.group for case in cases]),
    }
    scores = scores.assign_coords(labelled)
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


if __name__ == "__main__":
    typer.run(main)
