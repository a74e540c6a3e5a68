"""Memorization against what may explain it: how often an image was shown, how long a prompt is."""

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from interp.errors import InterpError
from interp.plot.style import (
    COLUMN,
    PAGE,
    canvas,
    colours,
    entry,
    kinds,
    legend,
    literal,
    logarithmic,
    panels,
)
from interp.results import intervals


def views_curve(values: xr.DataArray | xr.Dataset) -> Figure:
    """Memorization against how often the training image was shown, on a logarithmic axis.

    Example:
        >>> plot.views_curve(run.sscd.assign_coords(views=("prompt", views)))

    A dot is a prompt (its mean over seeds), the line the mean at each number of views, with 95 %
    intervals bootstrapped by `group`. Prompts never shown (views 0) stand at the left.

    Args:
        values: over (prompt) or (prompt, seed), with `views` on the prompts, and `kind` and `group`
            where they are known; a panel for each variable of a dataset.

    Raises:
        InterpError: the prompts have no views.
    """
    return _against(values, "views", "times shown in training")


def length_curve(values: xr.DataArray | xr.Dataset) -> Figure:
    """The same against the prompt's length in tokens, on a linear axis.

    Example:
        >>> plot.length_curve(run.sscd.assign_coords(length=run.tokens.sel(category="prompt")))

    Arguments as in `views_curve`, with `length` in place of `views`.
    """
    return _against(values, "length", "tokens of the prompt")


def scale_curve(copied: xr.DataArray) -> Figure:
    """Share of images that are copies against the scale of a LoRA, with 95 % intervals.

    Example:
        >>> plot.scale_curve(audit.scales(sd, memorized, 4, sscd, "lora")["copy"] >= 0.5)

    A thin line is a prompt, the thick one their mean.

    Args:
        copied: over (scale, prompt, seed), with `group` on the prompts where it is known.
    """
    values = copied.astype(float)
    found = intervals.mean(values)
    with canvas(1, 1, COLUMN, 2.4) as (figure, axes):
        ax, x = axes[0, 0], values.scale.values
        ax.plot(x, values.mean("seed").transpose("scale", "prompt"), color="#aaaaaa", linewidth=0.6)
        ends = np.stack([found["mean"] - found.low, found.high - found["mean"]])
        ax.errorbar(
            x, found["mean"], np.nan_to_num(ends).clip(0), marker="o", markersize=3, capsize=1.5,
            elinewidth=0.8,
        )  # fmt: skip
        ax.set(xlabel="scale of the LoRA", ylabel="share of images that are copies")
        ax.set_ylim(-0.03, 1.03)
    return figure


def _against(data: xr.DataArray | xr.Dataset, axis: str, label: str) -> Figure:
    if axis not in data.coords:
        raise InterpError(
            f"Cannot draw values against the {axis} of prompts.",
            f"The coordinates are {', '.join(map(str, data.coords))}.",
            f'Add it: data.assign_coords({axis}=("prompt", numbers)).',
        )
    shown, groups = panels(data), kinds(data)
    width = COLUMN if len(shown) == 1 else PAGE
    with canvas(1, len(shown), width, 2.4, sharex=True) as (figure, axes):
        for ax, (name, values) in zip(axes[0], shown.items(), strict=True):
            over = [dim for dim in values.dims if dim == "seed"]
            for kind, colour in colours(groups).items():
                of = values.isel(prompt=groups[kind].values.nonzero()[0])
                x = of[axis].values
                ax.plot(x, of.mean(over).values, ".", color=colour, alpha=0.35, markersize=4)
                levels = np.unique(x)
                means = [
                    intervals.mean(of.isel(prompt=np.flatnonzero(x == level))) for level in levels
                ]
                found = xr.concat(means, axis)
                centre = found["mean"].values
                ends = np.stack([centre - found.low.values, found.high.values - centre])
                whiskers = {"elinewidth": 0.8, "capsize": 1.5, "marker": "o", "markersize": 3}
                whiskers["linestyle"] = "-" if len(levels) > 2 else "none"  # two make no curve
                ends = np.clip(ends, 0, None)
                ax.errorbar(
                    levels,
                    centre,
                    ends,
                    color=colour,
                    label=entry(kind) if kind else None,
                    **whiskers,
                )
            if axis == "views":
                # A logarithmic axis has no 0, where controls stand.
                never = bool((values[axis] == 0).any())
                zero = {"linthresh": 1, "linscale": 0.4} if never else {}
                logarithmic(ax, "x", **zero)
            ax.set(xlabel=label, ylabel=literal(name))
        legend(figure, axes[0, 0])
    return figure
