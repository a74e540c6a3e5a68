"""The report's figures: pure functions of its dataset, one column wide to fit on phones."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interp import results
from interp.plot.attribution import layer_step_map
from interp.plot.style import COLUMN, KINDS, canvas, legend, logarithmic, numbered
from interp.report.edits import MITIGATION, NONE
from interp.report.findings import Findings, removals
from interp.report.words import CATEGORIES
from interp.text.html import INK

KEPT, LOST = KINDS["memorized"], KINDS["control"]


def summary(found: Findings, threshold: float) -> Figure:
    """How similar memorized prompts' images are to their training images, under each edit.

    Example:
        >>> summary(find(data), results.provenance(data)["threshold"])

    Args:
        found: the findings.
        threshold: the similarity from which images are copies.
    """
    rows = removals(found)
    with canvas(1, 1, COLUMN, 0.87 + 0.33 * len(rows)) as (figure, axes):
        ax = axes[0, 0]
        for place, effect in enumerate(rows):
            middle, low, high = effect.kept
            colour = KEPT if middle >= threshold else LOST
            ax.barh(place + 0.18, middle, 0.34, color=colour)
            if np.isfinite(low):
                ax.plot([low, high], [place + 0.18] * 2, color="#7f7f7f", linewidth=0.9)
            # One piece of the line per bar: a single line would cross the labels.
            ax.plot([threshold] * 2, [place - 0.04, place + 0.4], color="#7f7f7f", linewidth=1.1)
            said = f"{effect.label}: {effect.copies:.0%} copies"
            weight = "bold" if effect.role in (NONE, MITIGATION) else "normal"
            # Placed at the edge, and ignored by the layout: the longest label fills the figure.
            ax.text(
                0, place - 0.06, said, va="bottom", fontsize=6.5, fontweight=weight,
                transform=ax.get_yaxis_transform(), in_layout=False,
            )  # fmt: skip
        ax.set_xlim(np.nanmin([0.0, *(end for effect in rows for end in effect.kept)]), 1)
        ax.set_ylim(len(rows) - 0.4, -0.55)
        ax.set_yticks([])
        ax.spines["left"].set_visible(False)
        ax.set_xlabel(f"similarity to the training image\n(a copy from {threshold:.2f} on)")
    return figure


def where(data: xr.Dataset) -> Figure:
    """Where and when each category acts: the mean change over memorized prompts.

    Example:
        >>> where(data)

    Args:
        data: the collected dataset, with a memorized prompt.
    """
    change = data.change.assign_coords(player=[CATEGORIES[str(n)][0] for n in data.player.values])
    label = "change of the text's pull"
    return layer_step_map(change, rows="player", columns="", label=label)


def attention(data: xr.Dataset, prompt: int, axis: str) -> Figure:
    """One prompt's attention by category over steps or layers, in total and per token.

    Example:
        >>> attention(data, 0, "step")

    Args:
        data: the collected dataset.
        prompt: its number.
        axis: "step" or "layer"; the other is averaged over.
    """
    of = data.isel(prompt=prompt)
    mass = of.mass.mean("layer" if axis == "step" else "step")
    each = mass / of.tokens.where(of.tokens > 0)
    with canvas(2, 1, COLUMN, 3.75, sharex=True) as (figure, axes):
        for ax, values, label in zip(
            axes[:, 0], (mass, each), ("in sum", "per token"), strict=True
        ):
            _lines(ax, values, axis)
            ax.set_ylabel(f"attention {label}")
        axes[0, 0].set_ylim(0, 1)
        logarithmic(axes[1, 0], "y")
        numbered(axes[1, 0], data, axis)
        legend(figure, axes[0, 0], columns=2)
    return figure


def _lines(ax: Axes, values: xr.DataArray, axis: str) -> None:
    x = np.arange(values.sizes[axis])
    for category, colour in INK.items():
        line = values.sel(category=category)
        if bool(line.notnull().any()):
            ax.plot(x, line.values, color=colour, label=CATEGORIES[category][0])


def drawn(data: xr.Dataset, found: Findings) -> dict[str, Figure]:
    """Every figure on the page, by file name.

    Example:
        >>> list(drawn(data, find(data)))[:2]
        ['summary', 'where']
    """
    figures = {}
    if found.memorized:
        figures["summary"] = summary(found, results.provenance(data)["threshold"])
        figures["where"] = where(data)
    for prompt in range(data.sizes["prompt"]):
        for axis in ("step", "layer"):
            figures[f"prompt-{prompt + 1:02d}-{axis}s"] = attention(data, prompt, axis)
    return figures
