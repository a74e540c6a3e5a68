"""What is left of memorized and other images under every patch."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from interp.errors import InterpError
from interp.plot.style import (
    COLUMN,
    PAGE,
    TICK,
    canvas,
    colours,
    entry,
    kinds,
    legend,
    literal,
    panels,
)
from interp.results import intervals

Paper = Mapping[str, float | None]


def ablation(
    grid: xr.DataArray | xr.Dataset, paper: Paper | Mapping[str, Paper] | None = None
) -> Figure:
    """Bars with 95 % intervals for every patch, with kinds of prompts side by side.

    Example:
        >>> plot.ablation(grid.sscd, ip.paper.published())
        >>> both = {"sscd": ip.paper.published(), "clipscore": ip.paper.published("clipscore")}
        >>> plot.ablation(grid[["sscd", "clipscore"]], both)

    Args:
        grid: over (patch, prompt) or (patch, prompt, seed), if known with `kind` and `group` on the
            prompts; one panel per variable of a dataset. Intervals are bootstrapped by `group`.
        paper: published results by patch, drawn as diamonds on the first kind's bars; nested by
            variable if there are several. None stands for an unknown result.

    Raises:
        InterpError: there is no axis `patch`, or the published figures name none of the patches.
    """
    if "patch" not in grid.dims:
        raise InterpError(
            "A comparison of patches was asked for.",
            f"The data has the axes {', '.join(map(str, grid.dims))}.",
            "Run several: sd.run(prompts, patch={'none': None, 'h': ip.zero('pad')}).",
        )
    shown = panels(grid)
    published = _by_variable(paper, list(shown))
    patches = [str(name) for name in grid.patch.values]
    groups = kinds(grid)
    width = COLUMN if len(shown) == 1 else PAGE
    height = 0.7 + len(patches) * (0.12 + 0.11 * len(groups))
    with canvas(1, len(shown), width, height, sharey=True) as (figure, axes):
        for ax, (name, values) in zip(axes[0], shown.items(), strict=True):
            _bars(ax, values, groups)
            _diamonds(ax, published.get(name, {}), patches, len(groups))
            ax.set_xlabel(literal(name))
            ax.margins(y=0.02)
        axes[0, 0].set_yticks(range(len(patches)), [literal(patch, TICK) for patch in patches])
        axes[0, 0].invert_yaxis()  # shared by all panels
        fullest = max(axes[0], key=lambda ax: len(ax.get_legend_handles_labels()[0]))
        legend(figure, fullest)
    return figure


def _bars(ax: Axes, values: xr.DataArray, groups: Mapping[str, xr.DataArray]) -> None:
    thick = 0.8 / len(groups)
    for number, (kind, colour) in enumerate(colours(groups).items()):
        found = intervals.mean(values.isel(prompt=groups[kind].values.nonzero()[0]))
        centre = found["mean"].values
        ends = np.stack([centre - found.low.values, found.high.values - centre])
        at = np.arange(len(centre)) + _offset(number, len(groups))
        bars = {"height": thick, "color": colour, "label": entry(kind) if kind else None}
        # A single image has no interval: NaN, which is not drawn.
        whiskers = {"elinewidth": 0.7, "capsize": 1.5, "capthick": 0.7, "ecolor": "#222222"}
        ax.barh(at, centre, xerr=np.clip(ends, 0, None), error_kw=whiskers, **bars)


def _diamonds(ax: Axes, paper: Paper, patches: list[str], groups: int) -> None:
    given = [(patch, paper.get(patch)) for patch in patches]
    known = {patch: figure for patch, figure in given if figure is not None}
    if not known:
        return
    at = [patches.index(patch) + _offset(0, groups) for patch in known]
    (diamonds,) = ax.plot(list(known.values()), at, "D", label="published", zorder=3)
    diamonds.set(markersize=3, color="black", markerfacecolor="white")


def _offset(number: int, groups: int) -> float:
    """The offset of one kind's bars from a patch's tick."""
    return (number - (groups - 1) / 2) * 0.8 / groups


def _by_variable(paper: Paper | Mapping[str, Paper] | None, names: list[str]) -> dict[str, Paper]:
    if not paper:
        return {}
    nested = {str(k): v for k, v in paper.items() if isinstance(v, Mapping)}
    if nested:
        return nested
    if len(names) > 1:
        raise InterpError(
            "Published figures were passed for several variables.",
            f"The variables are {', '.join(names)}.",
            f"Nest them by variable: paper={{{names[0]!r}: {{patch: figure}}}}.",
        )
    return {names[0]: {str(k): v for k, v in paper.items() if not isinstance(v, Mapping)}}
