"""Where attention goes, over the run and through the network: in total and per token.

Both, because pads, 60 of 77 positions, dominate the total, and the start token dominates per token.
"""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from interp.errors import InterpError
from interp.plot.style import DASHES, PAGE, canvas, entry, kinds, legend, logarithmic, numbered
from interp.results import intervals
from interp.text.html import INK


def mass_over_steps(run: xr.Dataset) -> Figure:
    """Attention mass of each category over the steps, averaged over layers and heads.

    Example:
        >>> run = sd.run(prompts, seeds=range(4), record=ip.mass)
        >>> plot.mass_over_steps(run.assign_coords(kind=("prompt", kinds)))

    Left: the sum over a category's tokens; right: the mean per token, on a log scale. Colours are
    categories, dashes kinds of prompts. Bands are 95 % intervals of the mean, bootstrapped by
    `group`.

    Args:
        run: with `mass` and the coordinate `tokens`, as returned by `Session.run`; if known, with
            `kind` and `group` on the prompts.

    Raises:
        InterpError: `mass` was not recorded.
    """
    return _over(run, "step")


def mass_over_layers(run: xr.Dataset) -> Figure:
    """The same over the cross-attention layers in the order in which they run, averaged over steps.

    Example:
        >>> plot.mass_over_layers(run)

    Arguments, returns and errors as in `mass_over_steps`.
    """
    return _over(run, "layer")


def _over(run: xr.Dataset, axis: str) -> Figure:
    if "mass" not in run:
        raise InterpError(
            f"Cannot draw the attention mass over each {axis}.",
            f"The dataset has {', '.join(map(str, run.data_vars)) or 'no variables'}.",
            "Record it: sd.run(prompts, record=ip.mass).",
        )
    # Average heads first, so that layers with more heads do not count more.
    keep = {"prompt", "seed", "category", axis}
    mass = run.mass.mean("head")
    mass = mass.mean([dim for dim in mass.dims if dim not in keep])
    each = mass / run.tokens.where(run.tokens > 0)
    groups = kinds(run.mass)
    with canvas(1, 2, PAGE, 2.4) as (figure, axes):
        for ax, values, label in zip(
            axes[0], (mass, each), ("attention mass", "attention mass per token"), strict=True
        ):
            for dash, chosen in zip(DASHES, groups.values(), strict=False):
                _lines(ax, values.isel(prompt=chosen.values.nonzero()[0]), axis, dash)
            ax.set_ylabel(label)
            numbered(ax, run, axis)
        axes[0, 0].set_ylim(bottom=0)
        logarithmic(axes[0, 1], "y")
        axes[0, 1].set_ylim(top=1)
        # After the four categories, the meaning of the dashes.
        for dash, name in zip(DASHES, groups, strict=False):
            if name:
                axes[0, 0].add_line(
                    Line2D([], [], color="black", linestyle=dash, label=entry(name))
                )
        legend(figure, axes[0, 0], columns=4 + len(groups))
    return figure


def _lines(ax: Axes, values: xr.DataArray, axis: str, dash: object) -> None:
    found = intervals.mean(values)
    x = np.arange(found.sizes[axis])
    for category, colour in INK.items():
        line = found.sel(category=category)
        if bool(line["mean"].isnull().all()):
            continue  # 77-token prompts have no pads
        known = category if dash == DASHES[0] else None
        ax.plot(x, line["mean"].values, color=colour, linestyle=dash, label=known)
        ax.fill_between(x, line.low.values, line.high.values, color=colour, alpha=0.18, linewidth=0)
