"""Prompts hold anything: every figure draws them as they are."""

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.text import Text

from interp import plot
from interp.plot.style import literal
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt
from tests.plot.conftest import NAMED

HOSTILE = [
    "ba$$in cover", "$5 or $6", r"$\\frac{1}{0}$", r"back\\slash $x^2$",
    "<script>alert(1)</script>", "[bold]x[/]", "50 % off_now",
    "two\u2028lines", "\U0001f410 goat", "long " * 60, "_hidden", "__",
    "\x1b[31mred", "a\nb\tc",
    "%s %(x)s", "{0} {x}", "#7f7f7f", "\0",
]  # fmt: skip
WORST = [
    "ba$$in",
    "$5 or $6",
    "_hidden",
    "a\nb\u2028c",
    "\\ 50 % {x} <b>",
    "\0\x1b[1m",
    "long " * 60,
]


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
    for text in HOSTILE:
        if len(text) < 60:
            assert "".join(literal(text).split()) in drawn, text
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


def of_prompts(name, kinds, *dims):
    rng = np.random.default_rng(0)
    sizes = {"prompt": 6, "seed": 2, "patch": 2, "layer": 3, "step": 4, "head": 2, "category": 4}
    coords = {"patch": ["none", name], "layer": [name, "b", "c"], "category": list(CATEGORIES)}
    coords["kind"] = ("prompt", [kinds] * 3 + ["control"] * 3)
    coords |= {"views": ("prompt", [1, 2, 3] * 2), "length": ("prompt", [4, 5, 6] * 2)}
    has = {key: value[0] if isinstance(value, tuple) else key for key, value in coords.items()}
    used = {key: value for key, value in coords.items() if has[key] in dims}
    return xr.DataArray(rng.random([sizes[dim] for dim in dims]), used, dims, name=name)


def game(name):
    players = [name, "b"]
    phi = of_prompts("phi", "control", "prompt", "seed").expand_dims(player=players)
    both = phi.expand_dims(player_2=players)
    interval = phi.mean(["prompt", "seed"]).expand_dims(bound=["low", "high"])
    return xr.Dataset({"phi": phi, "interaction": both, "phi_interval": interval})


def encoded(name):
    words, category = (name, "<sot>", "<eot>", "<pad>"), torch.tensor([1, 0, 2, 3])
    return {name: Prompt(name, torch.arange(4), words, category, torch.randn(4, 8))}


def run(name):
    mass = of_prompts("mass", name, "prompt", "seed", "step", "layer", "head", "category")
    tokens = xr.DataArray(np.ones((6, 4)), dims=("prompt", "category"))
    return mass.to_dataset().assign_coords(tokens=tokens, layer=[name, "b", "c"])


def curve(name):
    fpr = np.linspace(0, 1, 5)
    lines = dict.fromkeys(("tpr", "tpr_low", "tpr_high"), ("fpr", fpr))
    return xr.Dataset(lines | {"auc": 0.5, "auc_low": 0.4, "auc_high": 0.6}, {"fpr": fpr})


def agreement(name):
    exact = of_prompts("exact", name, "step", "layer")
    return xr.Dataset({"exact": exact, "estimate": exact, "spearman": 1.0})


def pictures(name):
    pixels = np.zeros((1, 1, 8, 8, 3), np.uint8)
    dims = ("prompt", "patch", "pixel_y", "pixel_x", "rgb")
    return xr.DataArray(pixels, {"text": ("prompt", [name]), "patch": [name]}, dims)


def rates(name):
    row = {f"{value}{end}": 0.5 for value in ("auc", "tpr") for end in ("", "_low", "_high")}
    rows = [{"detector": d, "against": name, "views": "all", **row} for d in (name, "b")]
    return pd.DataFrame(rows)


def outcomes(name):
    row = {f"{value}{end}": 0.5 for value in ("copies", "kept") for end in ("", "_low", "_high")}
    return pd.DataFrame([{"mitigation": m, **row} for m in (name, "b")])


#: Every public figure, with the text wherever a user's can come in.
FIGURES = {
    "ablation": lambda n: plot.ablation(of_prompts(n, n, "patch", "prompt", "seed")),
    "agreement_scatter": lambda n: plot.agreement_scatter(agreement(n)),
    "detector_levels": lambda n: plot.detector_levels(rates(n)),
    "detector_rates": lambda n: plot.detector_rates(rates(n)),
    "detector_scores": lambda n: plot.detector_scores(of_prompts(n, n, "prompt", "seed"), 0.5),
    "embedding_pca": lambda n: plot.embedding_pca(encoded(n)),
    "frontier": lambda n: plot.frontier(outcomes(n)),
    "head_grid": lambda n: plot.head_grid(
        of_prompts(n, n, "patch", "layer", "head"), columns="patch", label=n
    ),
    "image_grid": lambda n: plot.image_grid(pictures(n)),
    "layer_step_map": lambda n: plot.layer_step_map(
        of_prompts(n, n, "patch", "layer", "step"), columns="patch", label=n
    ),
    "length_curve": lambda n: plot.length_curve(of_prompts(n, n, "prompt", "seed")),
    "mass_over_layers": lambda n: plot.mass_over_layers(run(n)),
    "mass_over_steps": lambda n: plot.mass_over_steps(run(n)),
    "pad_similarity": lambda n: plot.pad_similarity(encoded(n)),
    "roc": lambda n: plot.roc({n: curve(n), "b": curve(n)}),
    "running_sum": lambda n: plot.running_sum(
        of_prompts(n, n, "step", "category", "prompt"), label=n
    ),
    "shapley_bars": lambda n: plot.shapley_bars(game(n)),
    "views_curve": lambda n: plot.views_curve(of_prompts(n, n, "prompt", "seed")),
}


def test_every_public_figure_is_tried():
    # A curve over scales writes nothing of the user's.
    assert set(FIGURES) == set(plot.__all__) - {"save", "scale_curve"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Glyph .* missing from")
@pytest.mark.parametrize("figure", FIGURES)
def test_every_figure_draws_any_text(figure):
    """With the user's own settings the worst ones; that nothing is parsed is in conftest."""
    for text in WORST:
        with plt.rc_context({"text.usetex": True}):
            made = FIGURES[figure](text)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            made.draw_without_rendering()
        drawn = [each.get_text() for each in made.findobj(Text)]
        named = [each for each in made.findobj(Text) if NAMED.search(each.get_text())]
        assert not any(each.get_usetex() for each in named)
        if figure != "agreement_scatter" and len(text) < 30:
            said = "".join(literal(text).split())
            assert any(said in "".join(each.split()) for each in drawn), (text, drawn)
