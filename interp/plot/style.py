"""How figures look: sizes of a paper's columns, and colours that mean the same everywhere.

Settings apply while a figure is made or saved and are then restored, so a notebook's own style is
left alone.
"""

import os
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

#: Inches: one column and the full width of a two-column paper.
COLUMN, PAGE = 3.35, 6.9

KIND = "kind"
KINDS = {"memorized": "#b2182b", "control": "#67a9cf"}
#: The most characters of a name in a legend or a title, and at an axis.
LONGEST, TICK = 60, 36
#: Put before users' labels, because matplotlib leaves out those that start with "_".
MARK = "\N{WORD JOINER}"

DASHES: tuple[Any, ...] = ("-", (0, (3, 1.5)), ":", "-.")

#: Typed loosely, because matplotlib lists its four hundred settings by name only since 3.11.
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    # Journals ask for text that stays text in a PDF.
    "pdf.fonttype": 42,
    # Prompts and tokens are drawn as they are: a "$" in one is a dollar, not mathematics.
    "text.parse_math": False,
    "text.usetex": False,
}


@contextmanager
def canvas(
    rows: int, columns: int, width: float, height: float, **share: Any
) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure in the toolkit's style and its axes, `[rows, columns]`, to draw on in the block.

    Example:
        >>> with canvas(1, 2, PAGE, 2.2, sharey=True) as (figure, axes):
        ...     axes[0, 0].plot([0, 1])
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **share
        )
        # Otherwise pyplot would keep it forever, and a notebook would show it twice.
        plt.close(figure)
        yield figure, axes
        for ax in figure.axes:  # create the ticks now, with these settings
            ax.get_xticklabels()
            ax.get_yticklabels()


def save(figure: Figure, folder: str | os.PathLike[str], name: str) -> tuple[Path, Path]:
    """Write a figure as PDF and PNG (300 dpi) and return both paths.

    Example:
        >>> save(plot.roc(curve), "out/figures", "roc")

    The folder is created if necessary. Files contain no date: equal figures give equal files.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    pdf, png = target / f"{name}.pdf", target / f"{name}.png"
    with plt.rc_context(STYLE):
        figure.savefig(pdf, metadata={"CreationDate": None})
        figure.savefig(png)
    return pdf, png


def literal(text: object, longest: int | None = LONGEST) -> str:
    r"""A user's text as a one-line label: no line breaks or control characters, and not too long.

    Example:
        >>> literal("two\u2028lines"), literal("a long name", longest=6)
        ('two lines', 'a lon…')

    Nothing else is changed, and with the settings of `canvas` nothing in it is parsed.
    """
    marks = ("Cc", "Zl", "Zp")
    line = "".join(" " if unicodedata.category(mark) in marks else mark for mark in str(text))
    short = longest is not None and len(line) > longest
    return line[: longest - 1] + "…" if short and longest else line


def entry(text: object) -> str:
    """The same as an entry for `legend`, where a leading "_" hides nothing.

    Example:
        >>> ax.plot(x, y, label=entry("_mine"))
    """
    return MARK + literal(text)


def kinds(data: xr.DataArray | xr.Dataset) -> dict[str, xr.DataArray]:
    """Which prompts are of each kind; a single nameless kind if none is given.

    Example:
        >>> list(kinds(run))
        ['memorized', 'control']
    """
    if KIND not in data.coords:
        return {"": xr.DataArray(np.ones(data.sizes["prompt"], bool), dims="prompt")}
    named = data[KIND]
    present = list(dict.fromkeys(named.values.tolist()))
    order = [kind for kind in KINDS if kind in present]
    return {kind: named == kind for kind in order + [k for k in present if k not in KINDS]}


def colours(names: Iterable[str]) -> dict[str, Any]:
    """A colour for every kind: memorized and control have their own, others get the next one.

    Example:
        >>> colours(["memorized", "control"])["memorized"]
        '#b2182b'
    """
    names = list(names)
    if names == [""]:
        return {"": "#555555"}
    # Those colours of seaborn's palette that resemble neither of the two.
    others = iter(np.array(sns.color_palette("colorblind"))[[2, 1, 4, 8, 5]].tolist())
    return {name: KINDS[name] if name in KINDS else next(others, "#555555") for name in names}


def panels(data: xr.DataArray | xr.Dataset) -> dict[str, xr.DataArray]:
    """One panel per variable, by name.

    Example:
        >>> list(panels(grid[["sscd", "clipscore"]]))
        ['sscd', 'clipscore']
    """
    if isinstance(data, xr.DataArray):
        return {str(data.name or ""): data}
    return {str(name): data[name] for name in data.data_vars}


def legend(figure: Figure, axes: Axes, columns: int = 4, title: str | None = None) -> None:
    """One legend below the figure, for everything labelled on these axes.

    Example:
        >>> legend(figure, axes[0, 0])
    """
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = min(columns, len(handles))
        labels = [label.removeprefix(MARK) for label in labels]
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, title=title)


def logarithmic(ax: Axes, which: Literal["x", "y"] = "x", **zero: float) -> None:
    """A logarithmic axis of plain numbers; `linthresh` and `linscale` make room for 0.

    Example:
        >>> logarithmic(axes[0, 0])
    """
    change, axis = (ax.set_xscale, ax.xaxis) if which == "x" else (ax.set_yscale, ax.yaxis)
    change("symlog" if zero else "log", **zero)
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    # On short axes matplotlib also labels minor ticks, in mathematical notation.
    axis.set_minor_formatter(NullFormatter())


def numbered(ax: Axes, data: xr.Dataset, axis: str) -> None:
    """Ticks and label of a horizontal axis of layers, by name, or of steps.

    Example:
        >>> numbered(axes[0, 0], run, "layer")
    """
    if axis == "layer":
        names = [literal(name, TICK // 2) for name in data.layer.values]
        ax.set_xticks(range(len(names)), names, rotation=90)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("layer, in the order in which they run" if axis == "layer" else axis)
