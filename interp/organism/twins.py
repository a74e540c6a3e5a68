"""The two models side by side: what changes when pads are no copies of the end of the text?

Kim & No explain memorization in SD 1 by pads that repeat `v_eot`. The twin is trained on the same
plan, with the same seeds and text encoder, and padded with `!` as SD 2 is. The two are compared
after the same number of samples, which may be fewer than the finished model's.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import interp as ip
from interp.plot.style import PAGE, canvas, colours, legend, logarithmic

from . import duplicates, evaluate, unet
from .build import PADS, ROUNDS, TRAINED
from .copies import Judge, interval, matches

Found = dict[str, Any]
NAMES = {name: f"pads of {token}" for name, token in PADS.items()}
FILE = "twins.json"
SEEDS = 4
"""Images of every title under an edit."""
EDITS = {
    "h": "zero pads",
    "f": "zero eot",
    "c": "zero words",
    "repad '!' and zero eot": "pads of ! and zero eot",
    "zero pad 70 %": "zero 70 % of pads",
}
"""What memorized titles are drawn under, and how tables and figures say it."""


def measure(model: Path, sibling: Path, out: Path, share: float = 1.0) -> Found:
    """Compare `model/bang` with `sibling/eot`, and write `model/twins.json`.

    Example:
        >>> measure(Path("data/organism"), Path("runs/half"), Path("runs/evaluation/twins"))

    Args:
        model: the folder with the twin, the table of titles and the copy descriptor.
        sibling: the folder with the model that it is compared with; as many samples old.
        out: gets the stores; a killed comparison goes on from them.
        share: of what the population plans, as both were built.

    Raises:
        ValueError: the two have seen different numbers of samples.
    """
    folders = {"eot": sibling / "eot", "bang": model / "bang"}
    ages = {name: json.loads((at / TRAINED).read_text())["samples"] for name, at in folders.items()}
    if len(set(ages.values())) > 1:
        raise ValueError(f"Twins are compared at one age, and these have seen {ages} samples.")
    judge, edits = Judge.of(model), {**ip.paper.interventions(), **ip.paper.mitigations()}
    copied, left = {}, {}
    for name, folder in folders.items():
        sd, stores = ip.load(folder), out / name
        stores.mkdir(parents=True, exist_ok=True)
        titles = evaluate.shown(sd, model, stores, judge).sel(patch="none")
        copied[name] = matches(titles, judge.threshold)
        edited = evaluate.edited(
            sd, model, stores / "edits.zarr", {"copy": judge.copy},
            {edit: edits[edit] for edit in EDITS}, SEEDS,
        )  # fmt: skip
        left[name] = kept(evaluate.memorized_and_controls(edited)["memorized"], judge.threshold)
    both = {**copied, "difference": copied["bang"] - copied["eot"]}
    found = {
        "samples": ages["bang"],
        "views": views_after(ages["bang"], share),
        "copies": {name: by_level(values) for name, values in both.items()},
        "left": left,
    }
    (model / FILE).write_text(json.dumps(found, indent=2) + "\n")
    return found


def views_after(samples: int, share: float = 1.0) -> dict[str, float]:
    """How often titles of each level have been shown by then, on average; levels by their name."""
    rows = [row for row in duplicates.duplicates() if row.kind != "near_miss"]
    plan = np.concatenate([unet.plan(number, share) for number in ROUNDS])[:samples]
    seen = np.bincount(plan[(plan >= 0) & (plan < len(rows))], minlength=len(rows))
    levels: dict[str, list[int]] = {}
    for row, times in zip(rows, seen, strict=True):
        planned = sum(duplicates.views(shown, share) for shown in row.shown)
        levels.setdefault(str(planned), []).append(int(times))
    return {name: round(float(np.mean(times)), 2) for name, times in levels.items()}


def by_level(copied: xr.DataArray) -> dict[str, Any]:
    """Share of images that copy their training image, by level, near misses left out."""
    own = copied.isel(prompt=np.flatnonzero(copied.kind != "near_miss"))
    return {
        str(views): interval(own.isel(prompt=np.flatnonzero(own.views == views)))
        for views in np.unique(own.views)
    }


def kept(memorized: xr.Dataset, threshold: float) -> dict[str, Any]:
    """Of images that are copies without an edit, how many are copies with it."""
    copied = matches(memorized, threshold)
    plain = copied.sel(patch="none") == 1
    found: dict[str, Any] = {"images": int(plain.sum())}
    chosen = copied.where(plain).isel(prompt=np.flatnonzero(plain.any("seed")))
    for edit in EDITS:
        values = chosen.sel(patch=edit)
        found[edit] = interval(values) if values.size else dict.fromkeys(("mean", "low", "high"))
    return found


def read(model: Path) -> Found | None:
    """The comparison, where there is one."""
    return json.loads((model / FILE).read_text()) if (model / FILE).exists() else None


def draw(found: Mapping[str, Any]) -> Figure:
    """Copies by views so far; and the share of memorized images that survives each edit."""
    with canvas(1, 2, PAGE, 2.8) as (figure, axes):
        views = list(found["views"].values())
        for number, (name, colour) in enumerate(colours(NAMES).items()):
            levels = [found["copies"][name][level] for level in found["views"]]
            style = {"color": colour, "label": NAMES[name], "elinewidth": 0.7, "capsize": 1.5}
            _points(axes[0, 0], views, levels, marker="o", **style)
            left = [found["left"][name][edit] for edit in EDITS]
            at = np.arange(len(EDITS)) + 0.2 * (number - 0.5)
            _points(axes[0, 1], at, left, marker="s", linestyle="none", **style)
        logarithmic(axes[0, 0])
        axes[0, 0].set(xlabel="times shown so far", ylabel="share of images that are copies")
        axes[0, 0].set_ylim(-0.02, 1.02)
        axes[0, 1].set_xticks(range(len(EDITS)), EDITS.values(), rotation=30, ha="right")
        axes[0, 1].set(ylim=(-0.02, 1.02), ylabel="copies that stay copies")
        legend(figure, axes[0, 0])
    return figure


def _points(ax: Axes, at: Any, rows: list[dict[str, float | None]], **style: Any) -> None:
    centre = np.array([row["mean"] for row in rows], float)
    ends = np.array([[row[end] for row in rows] for end in ("low", "high")], float)
    ax.errorbar(at, centre, np.abs(ends - centre), markersize=3.5, **style)
