"""Pictures of an evaluation: curves, bars, and contact sheets of captions that nobody chose."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

import interp as ip
from interp import plot
from interp.plot.style import PAGE, canvas, colours, legend, logarithmic
from interp.results.axes import PIXELS

from . import honest, recognise, removal, scenes
from .copies import matches
from .evaluate import KIM_AND_NO, memorized_and_controls
from .held_out import MITIGATION

SHEET = 10
"""Captions on a contact sheet."""
FIRST = 4
"""Titles of each kind on the README's figure."""
SHIELDS = {
    MITIGATION: ip.mitigations.repad_zero_eot(),
    "no guidance at first": ip.mitigations.static_transition(),
}
"""What that figure shows against copies: the paper's way, and Jain et al.'s."""
SEEDS = 4


def draw(model: Path, out: Path, found: Mapping[str, Any], name: str = "eot") -> list[Path]:
    """Draw every figure of the evaluation in `out` into `model/<name>/figures`, as PNG.

    Example:
        >>> draw(Path("data/organism"), Path("runs/evaluation/eot"), found)
    """
    shown = xr.open_zarr(out / "duplicates.zarr").sel(patch="none").load()
    patched = xr.open_zarr(out / "patches.zarr").load()
    held_out = xr.open_zarr(out / "held_out.zarr").load()
    of_honest = xr.open_zarr(out / "honest.zarr").sel(patch="none").load()
    groups = memorized_and_controls(patched)
    memorized = groups["memorized"].sortby("views", ascending=False)
    step = max(1, memorized.sizes["prompt"] // SHEET)
    figures = {
        "first": first(memorized, held_out, model, name, out / "first.zarr"),
        "views": views(shown, found["descriptor"]["threshold"]),
        "interventions": interventions(groups),
        "removals": removals(groups),
        "detectors": detectors(found["detectors"]),
        "memorized": sheet(shown, memorized.isel(prompt=slice(0, SHEET * step, step)), model),
        "held_out": untrained(held_out),
        "honest": drawings(of_honest.sel(guidance=of_honest.guidance.values.max())),
    }
    folder = model / name / "figures"
    folder.mkdir(exist_ok=True)
    paths = []
    for stem, figure in figures.items():
        paths.append(save(figure, folder / f"{stem}.png"))
    return paths


def save(figure: Figure, path: Path) -> Path:
    """Write a figure, for a page of a repository rather than for print."""
    figure.savefig(path, dpi=110, bbox_inches="tight")
    return path


def views(shown: xr.Dataset, threshold: float) -> Figure:
    """Similarity to the training image, and share of copies, against views."""
    # One curve, of controls and verbatim images alike.
    own = shown.isel(prompt=np.flatnonzero(shown.kind != "near_miss")).drop_vars("kind")
    curve = xr.Dataset({
        "share of images that are copies": matches(own, threshold),
        "similarity to the training image": own["copy"].sel(reference="training"),
    })  # fmt: skip
    return plot.views_curve(curve)


def unedited(groups: Mapping[str, xr.Dataset], names: list[str]) -> xr.DataArray:
    """Similarity to the unedited image under these patches, `kind` on the prompts."""
    parts = [
        part["copy"].sel(patch=names).assign_coords(kind=("prompt", [kind] * part.sizes["prompt"]))
        for kind, part in groups.items()
    ]
    values = xr.concat(parts, "prompt").sel(reference="baseline")
    return values.rename("similarity to the unedited image")


def interventions(groups: Mapping[str, xr.Dataset]) -> Figure:
    """Similarity to the unedited image under the paper's patches, beside the paper's."""
    names = [*ip.paper.interventions(), *KIM_AND_NO]
    labels = [ip.paper.label(name) for name in names]
    published = {ip.paper.label(name): value for name, value in ip.paper.published().items()}
    return plot.ablation(unedited(groups, names).assign_coords(patch=labels), published)


def removals(groups: Mapping[str, xr.Dataset]) -> Figure:
    """Similarity to the unedited image without each category, removed in three ways."""
    names = {
        f"{category}: {way}": patch
        for category in removal.CATEGORIES
        for way, patch in removal.ways(category).items()
    }
    values = unedited(groups, list(names.values()))
    return plot.ablation(values.assign_coords(patch=list(names)))


def detectors(found: Mapping[str, Any]) -> Figure:
    """Area under the curve by level of views, of every detector, against both kinds of controls."""
    with canvas(1, len(found), PAGE, 2.6, sharey=True) as (figure, axes):
        for ax, (control, of_detector) in zip(axes[0], found.items(), strict=True):
            for name, colour in colours(of_detector).items():
                level = of_detector[name]
                centre = np.array([row["auc"]["mean"] for row in level.values()])
                ends = np.array([
                    [row["auc"][end] for row in level.values()] for end in ("low", "high")
                ], float)  # fmt: skip
                spread = np.abs(ends - centre).clip(min=0)
                at = [int(views) for views in level]
                style = {"marker": "o", "markersize": 3, "elinewidth": 0.6, "capsize": 1.5}
                ax.errorbar(at, centre, spread, color=colour, label=name, **style)
            ax.axhline(0.5, color="#888888", linewidth=0.7, linestyle=":")
            logarithmic(ax)
            ax.set(xlabel="times shown in training", ylim=(0, 1.02))
            ax.set_title(f"against {control.replace('_', '-')} titles", fontsize="medium")
        axes[0, 0].set_ylabel("AUC")
        legend(figure, axes[0, 0], columns=3)
    return figure


def first(
    memorized: xr.Dataset, held_out: xr.Dataset, model: Path, name: str, store: Path
) -> Figure:
    """What a newcomer should see: memorized titles and held-out ones, as they are and mitigated.

    Nobody chose the titles: they are evenly spaced among the most shown, and the first held out.
    """
    step = max(1, memorized.sizes["prompt"] // FIRST)
    often = memorized.isel(prompt=slice(0, FIRST * step, step))
    texts = [*often.text.values.tolist(), *held_out.text.values[:FIRST].tolist()]
    drawn = ip.sweep(ip.load(model / name), texts, SHIELDS, 2, store=store, images=True).load()
    training = _training(model, often)
    blank = np.full((len(texts) - len(training), *training.shape[1:]), 255, training.dtype)
    columns = {"training image": np.concatenate([training, blank])}
    for patch in drawn.patch.values.tolist():
        for seed in drawn.seed.values.tolist():
            title = f"seed {seed}" if patch == "none" else f"{patch}, seed {seed}"
            columns[title] = _images(drawn, patch, seed)
    labels = [
        f"{'memorized' if n < len(training) else 'never shown'}: {text}"
        for n, text in enumerate(texts)
    ]
    return plot.image_grid(_tiles(columns, labels), rows="prompt", columns="shown")


def sheet(shown: xr.Dataset, rows: xr.Dataset, model: Path) -> Figure:
    """Titles down; across, the training image, four seeds, and the first seed mitigated."""
    place = {text: number for number, text in enumerate(shown.text.values.tolist())}
    plain = shown.isel(prompt=[place[text] for text in rows.text.values.tolist()])
    columns = {"training image": _training(model, rows)}
    for seed in plain.seed.values[:SEEDS].tolist():
        columns[f"seed {seed}"] = _images(plain, None, seed)
    for name in KIM_AND_NO:
        columns[name] = _images(rows, name, int(rows.seed.values[0]))
    return plot.image_grid(_tiles(columns, rows.text.values), rows="prompt", columns="shown")


def untrained(held_out: xr.Dataset) -> Figure:
    """The first held-out titles down; across, every seed as it is and mitigated."""
    rows = held_out.isel(prompt=slice(SHEET))
    columns = {
        f"{title} {seed}": _images(rows, patch, seed)
        for title, patch in (("seed", "none"), ("mitigated, seed", MITIGATION))
        for seed in rows.seed.values.tolist()
    }
    return plot.image_grid(_tiles(columns, rows.text.values), rows="prompt", columns="shown")


def drawings(of_honest: xr.Dataset) -> Figure:
    """Captions of scenes down; across, a scene that keeps the caption's promise, and four seeds.

    The captions are the first of those that were measured: nobody chose them.
    """
    captions = recognise.some_captions(honest.CAPTIONS)[:SHEET]
    rows = of_honest.isel(prompt=slice(len(captions)))
    if [caption.text for caption in captions] != rows.text.values.tolist():
        raise ValueError("the store holds other captions than those that are drawn")
    draw = np.random.default_rng(16)
    scene = np.stack([scenes.render(scenes.compose(draw, caption)) for caption in captions])
    columns = {"a scene": scene}
    columns |= {
        f"seed {seed}": _images(rows, None, seed) for seed in rows.seed.values[:SEEDS].tolist()
    }
    return plot.image_grid(_tiles(columns, rows.text.values), rows="prompt", columns="shown")


def _training(model: Path, rows: xr.Dataset) -> np.ndarray:
    file = ip.read_prompts(model / "memorized.csv")
    training = dict(zip(file.texts, file.pictures(), strict=True))
    return np.stack([np.array(training[text]) for text in rows.text.values])


def _tiles(columns: Mapping[str, np.ndarray], texts: Any) -> xr.DataArray:
    return xr.DataArray(
        np.stack(list(columns.values()), 1),
        dims=("prompt", "shown", *PIXELS),
        coords={"text": ("prompt", list(texts)), "shown": list(columns)},
    )


def _images(rows: xr.Dataset, patch: str | None, seed: int) -> np.ndarray:
    images = rows.image if patch is None else rows.image.sel(patch=patch)
    return images.sel(seed=seed).transpose("prompt", *PIXELS).values
