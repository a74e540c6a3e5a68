"""The two models side by side: what changes when pads are no copies of the end of the text?

Kim & No explain memorization in SD 1 by pads that repeat `v_eot`. The twin is trained on the same
plan, with the same seeds and text encoder, and padded with `!` as SD 2 is. Only where both have
been evaluated.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interp.plot.style import PAGE, canvas, colours, legend, logarithmic

from .build import PADS
from .removal import CATEGORIES, ZERO

Found = dict[str, Any]
NAMES = {name: f"pads of {token}" for name, token in PADS.items()}


def both(model: Path) -> dict[str, Found]:
    """The evaluations that there are, by the model's folder.

    Example:
        >>> both(Path("data/organism"))["bang"]["levels"]["960"]["matches"]
    """
    files = {name: model / name / "evaluation.json" for name in PADS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def draw(found: Mapping[str, Found]) -> Figure:
    """Copies by views, and what is left without pads, eot and words, of every model in `found`."""
    with canvas(1, 2, PAGE, 2.6) as (figure, axes):
        for number, (name, colour) in enumerate(colours(found).items()):
            levels = found[name]["levels"]
            rows = [row["matches"] for row in levels.values()]
            style = {"color": colour, "label": NAMES[name], "elinewidth": 0.7, "capsize": 1.5}
            _points(axes[0, 0], [int(views) for views in levels], rows, marker="o", **style)
            edits = found[name]["patches"]["memorized"]
            left = [edits[ZERO[category]]["to_unedited"] for category in CATEGORIES]
            at = np.arange(len(CATEGORIES)) + 0.2 * (number - 0.5 * (len(found) - 1))
            _points(axes[0, 1], at, left, marker="s", linestyle="none", **style)
        logarithmic(axes[0, 0])
        axes[0, 0].set(xlabel="times shown in training", ylabel="share of images that are copies")
        axes[0, 0].set_ylim(-0.02, 1.02)
        axes[0, 1].set_xticks(range(len(CATEGORIES)), [f"zero {name}" for name in CATEGORIES])
        axes[0, 1].set(ylim=(-0.1, 1.05), ylabel="similarity to the unedited image")
        legend(figure, axes[0, 0])
    return figure


def _points(ax: Axes, at: Any, rows: list[dict[str, float]], **style: Any) -> None:
    centre = np.array([row["mean"] for row in rows], float)
    ends = np.array([[row[end] for row in rows] for end in ("low", "high")], float)
    ax.errorbar(at, centre, np.abs(ends - centre), markersize=3.5, **style)
