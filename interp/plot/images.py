"""Generated images side by side: what the numbers look like."""

from textwrap import fill

import numpy as np
import xarray as xr
from einops import rearrange
from matplotlib.figure import Figure

from interp.errors import InterpError
from interp.plot.style import PAGE, canvas, literal
from interp.results.axes import PIXELS

GAP = 0.04
"""White space between images, as a fraction of their width."""


def image_grid(images: xr.DataArray, rows: str = "patch", columns: str = "prompt") -> Figure:
    """Images as a grid, labelled by patch, prompt (its text, if known) or seed.

    Example:
        >>> grid = sd.run(prompts, seeds=[0], patch={"none": None, **ip.paper.interventions()})
        >>> plot.image_grid(grid.image.isel(seed=0))
        >>> plot.image_grid(grid.image.sel(patch="h"), rows="prompt", columns="seed")

    Args:
        images: uint8 `image` from `Session.run`, over `rows`, `columns`, and axes of length 1.
        rows: the vertical axis.
        columns: the horizontal axis.

    Raises:
        InterpError: an axis is missing, or there are others.
    """
    rest = [dim for dim in images.dims if dim not in (rows, columns, *PIXELS)]
    left = [str(dim) for dim in rest if images.sizes[dim] > 1]
    if left or rows not in images.dims or columns not in images.dims:
        raise InterpError(
            f"Cannot lay out images with {rows} down and {columns} across.",
            f"They have the axes {', '.join(map(str, images.dims))}.",
            "Select until only those two are left, such as images.isel(seed=0), or name others.",
        )
    tiles = images.squeeze(rest, drop=True).transpose(rows, columns, *PIXELS).values
    high, wide = tiles.shape[2:4]
    gap = max(1, round(GAP * wide))
    margin = ((0, 0), (0, 0), (0, gap), (0, gap), (0, 0))
    framed = np.pad(tiles, margin, constant_values=255)
    montage = rearrange(framed, "row column y x rgb -> (row y) (column x) rgb")[:-gap, :-gap]
    across, down = tiles.shape[1], tiles.shape[0]
    size = min(1.2, (PAGE - 1) / across)
    with canvas(1, 1, across * size + 1, down * size * high / wide + 0.5) as (figure, axes):
        ax = axes[0, 0]
        ax.imshow(montage)
        centres = np.arange(across) * (wide + gap) + (wide - 1) / 2
        ax.set_xticks(centres, _labels(images, columns, max(8, int(size * 15))))
        ax.set_yticks(np.arange(down) * (high + gap) + (high - 1) / 2, _labels(images, rows, 18))
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return figure


def _labels(images: xr.DataArray, axis: str, width: int) -> list[str]:
    texts = images.text.values if axis == "prompt" and "text" in images.coords else None
    names = images[axis].values if texts is None else texts
    return [fill(literal(name, None), width, max_lines=3, placeholder=" …") for name in names]
