"""Prompts hold anything: every figure draws them as they are."""

import numpy as np
import pytest
import xarray as xr
from matplotlib.text import Text

from interp import plot

HOSTILE = [
    "ba$$in cover", "$5 or $6", r"$\\frac{1}{0}$", r"back\\slash $x^2$",
    "<script>alert(1)</script>", "[bold]x[/]", "50 % off_now",
    "two\u2028lines", "\U0001f410 goat", "long " * 60,
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Glyph .* missing from")
def test_every_character_of_a_prompt_is_drawn_as_it_is():
    pixels = np.zeros((len(HOSTILE), 2, 8, 8, 3), np.uint8)
    images = xr.DataArray(
        pixels,
        dims=("prompt", "patch", "pixel_y", "pixel_x", "rgb"),
        coords={"text": ("prompt", HOSTILE), "patch": ["none", "$a$ & _b_"]},
    )
    figure = plot.image_grid(images, rows="prompt", columns="patch")
    figure.draw_without_rendering()
    drawn = ["".join(text.get_text().split()) for text in figure.findobj(Text)]
    for text in HOSTILE[:-1]:
        assert "".join(text.split()) in drawn, text
    assert "$a$&_b_" in drawn


@pytest.mark.filterwarnings("ignore:Glyph .* missing from")
def test_names_of_kinds_and_patches_are_drawn_as_they_are():
    names = ["none", "$5 or $6", "ba$$in"]
    values = xr.DataArray(
        np.random.default_rng(0).random((3, 4, 2)),
        dims=("patch", "prompt", "seed"),
        coords={"patch": names, "kind": ("prompt", ["$x$", "$x$", "a$$", "a$$"])},
        name="$similarity$",
    )
    figures = [
        plot.ablation(values),
        plot.views_curve(values.sel(patch="none").assign_coords(views=("prompt", [1, 2, 3, 4]))),
    ]
    for figure in figures:
        figure.draw_without_rendering()
        drawn = {text.get_text() for text in figure.findobj(Text)}
        assert {"$x$", "a$$", "$similarity$"} <= drawn
