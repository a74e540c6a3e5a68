"""Attribution as pictures: who contributes, and where in the network and the run.

Maps are signed: blue takes away from the value, red adds to it, white does nothing.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from interp.errors import InterpError
from interp.plot.style import COLUMN, PAGE, TICK, canvas, legend, literal
from interp.results import intervals
from interp.text.html import INK

SIGNED = "RdBu_r"
MEANED = ("prompt", "seed")


def shapley_bars(phi: xr.Dataset) -> Figure:
    """What each player contributes, with intervals, and which pairs do more than their parts.

    Example:
        >>> plot.shapley_bars(attribute.shapley(sd, a, baseline=b, value=copied, seeds=range(8)))

    Args:
        phi: what `attribute.shapley` returns.
    """
    players = [str(name) for name in phi.player.values]
    values = phi.phi.mean(MEANED)
    ends = np.abs(phi.phi_interval.transpose("bound", "player").values - values.values)
    with canvas(1, 2, PAGE, 2.4) as (figure, axes):
        bars, matrix = axes[0]
        colours = [INK.get(name, "#777777") for name in players]
        look = {"elinewidth": 0.8, "capsize": 2, "ecolor": "#222222"}
        places, names = range(len(players)), [literal(name, TICK) for name in players]
        bars.bar(places, values.values, color=colours, yerr=ends, error_kw=look)
        bars.set_xticks(places, names)
        bars.axhline(0, color="black", linewidth=0.5)
        bars.set_ylabel("Shapley value")
        pairs = phi.interaction.mean(MEANED).transpose("player", "player_2").values.copy()
        np.fill_diagonal(pairs, np.nan)
        image = matrix.imshow(pairs, cmap=SIGNED, norm=_centred(pairs))
        for (row, column), value in np.ndenumerate(pairs):
            if np.isfinite(value):
                dark = abs(value) > 0.6 * np.nanmax(abs(pairs))
                said = {"ha": "center", "va": "center", "color": "w" if dark else "k"}
                matrix.text(column, row, f"{value:.2f}", fontsize=7, **said)
        matrix.set_xticks(places, names)
        matrix.set_yticks(places, names)
        matrix.set_title("interaction")
        figure.colorbar(image, ax=matrix)
    return figure


def layer_step_map(
    effects: xr.DataArray, rows: str = "side", columns: str = "category", label: str = ""
) -> Figure:
    """Heat maps of layers against steps, a panel for every side and category (or patch).

    Example:
        >>> plot.layer_step_map(estimate.estimate.sum("head"), label="change of the guidance norm")
        >>> plot.layer_step_map(exact.effect, columns="patch")

    Args:
        effects: over (layer, step) and perhaps `rows`, `columns`, prompt and seed, which are
            averaged.
        rows, columns: the axes of the panels; those that are not there make one. A single column
            of panels is as wide as a column of a paper.
        label: of the colour bar, with the unit.

    Raises:
        InterpError: there is no layer or step, or an axis is left over.
    """
    values = _flat(effects, ("layer", "step"), (rows, columns))
    down, across = (
        [str(name) for name in values[axis].values] if axis in values.dims else [""]
        for axis in (rows, columns)
    )
    norm = _centred(values.values)
    height = 0.7 + len(down) * (0.5 + 0.13 * values.sizes["layer"])
    share = {"sharex": True, "sharey": True}
    width = COLUMN if len(across) == 1 else PAGE
    with canvas(len(down), len(across), width, height, **share) as (figure, axes):
        for row, first in enumerate(down):
            for column, second in enumerate(across):
                panel = values
                panel = panel.isel({rows: row}) if rows in values.dims else panel
                panel = panel.isel({columns: column}) if columns in values.dims else panel
                ax = axes[row, column]
                image = ax.imshow(
                    panel.transpose("layer", "step").values,
                    cmap=SIGNED, norm=norm, aspect="auto", interpolation="nearest",
                )  # fmt: skip
                ax.set_title(literal(", ".join(part for part in (second, first) if part)))
                if row == len(down) - 1:
                    ax.set_xlabel("step")
        names = [literal(name, TICK) for name in values.layer.values]
        for ax in axes[:, 0]:
            ax.set_yticks(range(len(names)), names)
        figure.colorbar(image, ax=axes, label=literal(label), shrink=0.8)
    return figure


def head_grid(effects: xr.DataArray, columns: str = "category", label: str = "") -> Figure:
    """Heat maps of layers against heads, a panel for every category (or patch, or side).

    Example:
        >>> plot.head_grid(estimate.estimate.sum(["side", "step"]))

    Args:
        effects: over (layer, head) and perhaps `columns`, prompt and seed, which are averaged.
            Heads that a layer lacks are NaN, and blank.
        columns, label: as in `layer_step_map`.

    Raises:
        InterpError: there is no layer or head, or an axis is left over.
    """
    values = _flat(effects, ("layer", "head"), (columns,))
    across = [str(name) for name in values[columns].values] if columns in values.dims else [""]
    norm = _centred(values.values)
    height = 0.9 + 0.15 * values.sizes["layer"]
    with canvas(1, len(across), PAGE, height, sharey=True) as (figure, axes):
        for number, (ax, name) in enumerate(zip(axes[0], across, strict=True)):
            panel = values.isel({columns: number}) if columns in values.dims else values
            shown = panel.transpose("layer", "head").values
            image = ax.imshow(shown, cmap=SIGNED, norm=norm, aspect="auto")
            ax.set(title=literal(name), xlabel="head", xticks=range(values.sizes["head"]))
        names = [literal(name, TICK) for name in values.layer.values]
        axes[0, 0].set_yticks(range(len(names)), names)
        figure.colorbar(image, ax=axes, label=literal(label))
    return figure


def running_sum(effects: xr.DataArray, label: str = "") -> Figure:
    """Effects added up over the steps, a line for every category, with 95 % intervals.

    Example:
        >>> plot.running_sum(estimate.estimate.sum(["side", "layer", "head"]))

    Args:
        effects: over (step, category, prompt) and perhaps seed.
        label: of the vertical axis, with the unit.

    Raises:
        InterpError: an axis is missing or left over.
    """
    values = _flat(effects, ("step", "category", "prompt"), (), averaged=("seed",))
    found = intervals.mean(values.cumsum("step"))
    with canvas(1, 1, COLUMN, 2.4) as (figure, axes):
        ax = axes[0, 0]
        for category in values.category.values:
            line, colour = found.sel(category=category), INK.get(str(category), "#777777")
            steps = np.arange(values.sizes["step"])
            ax.plot(steps, line["mean"].values, color=colour, label=str(category))
            ends = {"color": colour, "alpha": 0.18, "linewidth": 0}
            ax.fill_between(steps, line.low.values, line.high.values, **ends)
        ax.axhline(0, color="black", linewidth=0.5)
        ax.set(xlabel="step", ylabel=literal(label) or "running sum")
        legend(figure, ax)
    return figure


def agreement_scatter(both: xr.Dataset) -> Figure:
    """The exact change of every cell against its estimate, with their rank correlation.

    Example:
        >>> plot.agreement_scatter(attribute.agreement(exact, estimate))

    Args:
        both: what `attribute.agreement` returns, with a single correlation.
    """
    x, y = both.exact.values.ravel(), both.estimate.values.ravel()
    there = np.isfinite(x) & np.isfinite(y)
    reach = 1.05 * max(np.abs(x[there]).max(), np.abs(y[there]).max(), 1e-12)
    with canvas(1, 1, COLUMN, COLUMN) as (figure, axes):
        ax = axes[0, 0]
        ax.plot([-reach, reach], [-reach, reach], color="#bbbbbb", linestyle=":", linewidth=0.8)
        dots = {"alpha": 0.4, "markersize": 2.5, "rasterized": True}
        ax.plot(x[there], y[there], ".", color=INK["pad"], **dots)
        rank = float(both.spearman.mean())
        ax.set_title(f"Spearman {rank:.2f}, {int(there.sum()):,} cells")
        ax.set(xlabel="exact change", ylabel="estimate", aspect="equal")
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach))
    return figure


def _centred(values: np.ndarray) -> TwoSlopeNorm:
    """White at 0, and both sides equally far."""
    reach = float(np.nanmax(np.abs(values), initial=0)) or 1.0
    return TwoSlopeNorm(0, -reach, reach)


def _flat(
    effects: xr.DataArray,
    needed: Sequence[str],
    panels: Sequence[str],
    averaged: Sequence[str] = MEANED,
) -> xr.DataArray:
    """The mean over prompts and seeds, with no other axes than those that are drawn."""
    values = effects.mean([dim for dim in averaged if dim in effects.dims])
    missing = [axis for axis in needed if axis not in values.dims]
    left = [str(dim) for dim in values.dims if dim not in (*needed, *panels)]
    if missing or left:
        raise InterpError(
            f"Cannot draw effects over {', '.join(needed)}.",
            f"They have the axes {', '.join(map(str, effects.dims))}.",
            f"Select or sum the others: {', '.join(missing + left)}.",
        )
    return values
