"""Pictures of an evaluation: the curve of memorization, the paper's bars, and contact sheets."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import interp as ip
from interp import plot
from interp.results.axes import PIXELS

from . import recognise, scenes
from .copies import matches
from .evaluate import KIM_AND_NO, memorized_and_controls

SHEET = 10
"""Captions on a contact sheet."""
SEEDS = 4


def draw(model: Path, out: Path, threshold: float) -> list[Path]:
    """Draw every figure of the evaluation in `out` into `model/figures`, as PNG.

    >>> draw(Path("data/organism"), Path("runs/evaluation"), threshold=0.6)
    """
    shown = xr.open_zarr(out / "duplicates.zarr").sel(patch="none").load()
    patched = xr.open_zarr(out / "patches.zarr").load()
    honest = xr.open_zarr(out / "honest.zarr").sel(patch="none").load()
    groups = memorized_and_controls(patched)
    memorized = groups["memorized"].sortby("views", ascending=False)
    step = max(1, memorized.sizes["prompt"] // SHEET)
    figures = {
        "views": views(shown, threshold),
        "interventions": interventions(groups),
        "memorized": sheet(shown, memorized.isel(prompt=slice(0, SHEET * step, step)), model),
        "controls": sheet(shown, groups["control"].isel(prompt=slice(SHEET)), model),
        "honest": drawings(honest.sel(guidance=honest.guidance.values.max())),
    }
    folder = model / "figures"
    folder.mkdir(exist_ok=True)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=200, bbox_inches="tight")
    return paths


def views(shown: xr.Dataset, threshold: float) -> Figure:
    """Similarity to the training image, and share of copies, against views."""
    # One curve, of controls and verbatim images alike.
    own = shown.isel(prompt=np.flatnonzero(shown.kind != "near_miss")).drop_vars("kind")
    curve = xr.Dataset({
        "share of images that are copies": matches(own, threshold),
        "similarity to the training image": own["copy"].sel(reference="training"),
    })  # fmt: skip
    return plot.views_curve(curve)


def interventions(groups: Mapping[str, xr.Dataset]) -> Figure:
    """Similarity to the unedited image under every patch, beside the paper's."""
    parts = [
        part["copy"].assign_coords(kind=("prompt", [kind] * part.sizes["prompt"]))
        for kind, part in groups.items()
    ]
    values = xr.concat(parts, "prompt").sel(reference="baseline").drop_sel(patch="none")
    values = values.rename("similarity to the unedited image")
    labels = [ip.paper.label(str(name)) for name in values.patch.values]
    published = {ip.paper.label(name): value for name, value in ip.paper.published().items()}
    return plot.ablation(values.assign_coords(patch=labels), published)


def sheet(shown: xr.Dataset, rows: xr.Dataset, model: Path) -> Figure:
    """Captions down; across, the training image, four seeds, and the first seed mitigated."""
    place = {text: number for number, text in enumerate(shown.text.values.tolist())}
    plain = shown.isel(prompt=[place[text] for text in rows.text.values.tolist()])
    file = ip.read_prompts(model / "memorized.csv")
    training = dict(zip(file.texts, file.pictures(), strict=True))
    columns = {"training image": np.stack([np.array(training[text]) for text in rows.text.values])}
    for seed in plain.seed.values[:SEEDS].tolist():
        columns[f"seed {seed}"] = _images(plain, seed)
    for name in KIM_AND_NO:
        columns[name] = _images(rows.sel(patch=name), int(rows.seed.values[0]))
    return plot.image_grid(_tiles(columns, rows), rows="prompt", columns="shown")


def drawings(honest: xr.Dataset) -> Figure:
    """Captions of scenes down; across, a scene that keeps the caption's promise, and four seeds.

    The captions are the first of those that were measured: nobody chose them.
    """
    captions = recognise.some_captions(honest.sizes["prompt"])[:SHEET]
    rows = honest.isel(prompt=slice(len(captions)))
    if [caption.text for caption in captions] != rows.text.values.tolist():
        raise ValueError("the store holds other captions than those that are drawn")
    draw = np.random.default_rng(16)
    scene = np.stack([scenes.render(scenes.compose(draw, caption)) for caption in captions])
    columns = {"a scene": scene}
    columns |= {f"seed {seed}": _images(rows, seed) for seed in rows.seed.values[:SEEDS].tolist()}
    return plot.image_grid(_tiles(columns, rows), rows="prompt", columns="shown")


def _tiles(columns: Mapping[str, np.ndarray], rows: xr.Dataset) -> xr.DataArray:
    return xr.DataArray(
        np.stack(list(columns.values()), 1),
        dims=("prompt", "shown", *PIXELS),
        coords={"text": ("prompt", rows.text.values), "shown": list(columns)},
    )


def _images(rows: xr.Dataset, seed: int) -> np.ndarray:
    return rows.image.sel(seed=seed).transpose("prompt", *PIXELS).values
