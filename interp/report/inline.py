"""Pictures inside the page: figures as SVG in the page's colours, images as data URIs.

Small on purpose: reports are sent by mail, which carries about ten megabytes.
"""

from __future__ import annotations

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from einops import rearrange
from jaxtyping import UInt8
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from interp.plot.style import KINDS, STYLE
from interp.text.html import INK

QUALITY = 80
#: Colours of figures, and the page's own for the same things, which differ in dark mode.
THEME = {
    "#000000": "currentColor",
    "#7f7f7f": "var(--quiet)",
    **{colour: f"var(--{name})" for name, colour in {**INK, **KINDS}.items()},
}
INLINE = {**STYLE, "svg.fonttype": "none", "svg.hashsalt": "report", "font.family": "sans-serif"}


def svg(figure: Figure, says: str) -> Markup:
    """A figure as an SVG element, identical every time.

    Example:
        >>> svg(summary(find(data), 0.5), "Similarity to the training image under each edit")

    Args:
        figure: a figure in the toolkit's style.
        says: what it shows, for screen readers.
    """
    file = io.StringIO()
    with plt.rc_context(INLINE):
        dateless = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", transparent=True, metadata=dateless)
    drawing = file.getvalue().partition("<svg")[2]
    for colour, themed in THEME.items():
        drawing = drawing.replace(colour, themed)
    label = Markup(' role="img" aria-label="{}"').format(says)
    return Markup("<svg") + label + Markup(drawing)


def picture(pixels: UInt8[np.ndarray, "h w rgb"], side: int) -> str:
    """An image as a data URI, its longer side at most this many pixels.

    Example:
        >>> picture(data.image.isel(prompt=0, seed=0).values, 256)[:15]
        'data:image/webp'
    """
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return _uri(image, "webp", quality=QUALITY, method=4)


def sprite(maps: xr.DataArray) -> tuple[str, dict[str, tuple[float, float]]]:
    """All maps of a prompt as one picture (categories down, steps across), and their ranges.

    Example:
        >>> uri, ranges = sprite(data.overlay.isel(prompt=0))
        >>> ranges["pad"]
        (0.31, 0.64)

    The values are the picture's opacity. Each category is stretched to its own range, because
    differences between places are much smaller than those between categories.
    """
    dims = ("category", "map_y", "step", "map_x")
    values = maps.transpose(*dims)
    low, high = (getattr(values, end)(dims[1:]) for end in ("min", "max"))
    scaled = (values - low) / (high - low).where(high > low, 1)
    opacity = (scaled.fillna(0).values * 255).round().astype(np.uint8)
    flat = rearrange(opacity, "category y step x -> (category y) (step x)")
    image = Image.fromarray(np.stack([np.zeros_like(flat), flat], axis=-1), mode="LA")
    ranges = {
        str(name): (float(low.sel(category=name)), float(high.sel(category=name)))
        for name in values.category.values
    }
    return _uri(image, "png", optimize=True), ranges


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
