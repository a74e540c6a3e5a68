"""Figures: what is drawn is what the dataset says, read back from the axes."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib.colors import to_hex

from interp import plot
from interp.detect import roc
from interp.errors import InterpError
from interp.results import intervals
from interp.text.categories import CATEGORIES, around
from interp.text.html import COLOURS, INK
from interp.text.prompt import Prompt

KIND = ["memorized"] * 6 + ["control"] * 6
GROUP = [0, 0, 1, 1, 2, 2, 10, 11, 12, 13, 14, 15]
VIEWS = [4, 4, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0]
PATCHES = ["none", "a", "h"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def known(values, **coords):
    """Values over (..., prompt, seed), with what figures know about prompts."""
    dims = ("patch", "prompt", "seed")[3 - values.ndim :]
    of_prompt = {"kind": KIND, "group": GROUP, "views": VIEWS}
    coords |= {name: ("prompt", given) for name, given in of_prompt.items()}
    return xr.DataArray(values, dims=dims, coords=coords, name="sscd")


@pytest.fixture
def grid(rng):
    return known(rng.random((3, 12, 2)), patch=PATCHES)


@pytest.fixture
def run(rng):
    mass = rng.random((12, 2, 5, 3, 4, 4))
    mass[:, :, :, 1, 2:] = np.nan  # a layer of fewer heads
    mass /= mass.sum(-1, keepdims=True)
    tokens = np.array([[1, n, 1, 75 - n] for n in range(3, 15)])
    tokens[0] = [1, 75, 1, 0]
    dims = ("prompt", "seed", "step", "layer", "head", "category")
    return xr.Dataset(
        {"mass": (dims, mass)},
        {
            "layer": ["down.0.0", "mid.0", "up.1.0"],
            "category": list(CATEGORIES),
            "tokens": (("prompt", "category"), tokens),
            "kind": ("prompt", KIND),
            "group": ("prompt", GROUP),
        },
    )


def labels(figure):
    return [text.get_text() for box in figure.legends for text in box.get_texts()]


@pytest.mark.parametrize("axis", ["step", "layer"])
def test_mass_lines_are_the_means(run, axis):
    figure = {"step": plot.mass_over_steps, "layer": plot.mass_over_layers}[axis](run)
    left, right = figure.axes
    other = {"step": "layer", "layer": "step"}[axis]
    mass = run.mass.mean("head").mean(other).mean("seed")
    for ax, values in ((left, mass), (right, mass / run.tokens.where(run.tokens > 0))):
        drawn = [line for line in ax.lines if len(line.get_xdata()) == run.sizes[axis]]
        assert len(drawn) == 8
        expected = [
            values.where(run.kind == kind, drop=True).mean("prompt").sel(category=category)
            for kind in ("memorized", "control")
            for category in CATEGORIES
        ]
        for line, value in zip(drawn, expected, strict=True):
            np.testing.assert_allclose(line.get_ydata(), value)
        colours = [line.get_color() for line in drawn]
        assert colours == [INK[category] for category in CATEGORIES] * 2
        assert drawn[0].get_linestyle() != drawn[4].get_linestyle()
    assert labels(figure) == [*CATEGORIES, "memorized", "control"]
    if axis == "layer":
        assert [t.get_text() for t in left.get_xticklabels()] == list(run.layer.values)


def test_bands_are_bootstrapped_by_image(run):
    figure = plot.mass_over_steps(run)
    band = figure.axes[0].collections[3].get_paths()[0].vertices[:, 1]
    pads = run.mass.mean("head").mean("layer").sel(category="pad")[:6]
    by_image = intervals.mean(pads, groups=GROUP[:6])
    assert band.max() == pytest.approx(float(by_image.high.max()))
    assert band.min() == pytest.approx(float(by_image.low.min()))


def test_mass_of_prompts_of_unknown_kind_without_pads(run):
    figure = plot.mass_over_steps(run.drop_vars(["kind", "group"]).isel(prompt=[0]))
    assert labels(figure) == list(CATEGORIES)
    assert len(figure.axes[1].lines) == 3  # nothing per token where there are no tokens


def test_bars_are_the_means_with_their_intervals(grid):
    figure = plot.ablation(grid, {"a": 0.04, "h": None, "unknown": 1.0})
    ax = figure.axes[0]
    for bars, kind in zip(ax.containers[1::2], ("memorized", "control"), strict=True):
        found = intervals.mean(grid.where(grid.kind == kind, drop=True))
        np.testing.assert_allclose([bar.get_width() for bar in bars], found["mean"])
        whiskers = np.array([s[:, 0] for s in bars.errorbar.lines[2][0].get_segments()])
        np.testing.assert_allclose(whiskers, np.stack([found.low, found.high], 1))
    (diamond,) = [line for line in ax.lines if line.get_marker() == "D"]
    assert diamond.get_xdata() == [0.04]
    first = ax.containers[1][1]
    assert diamond.get_ydata() == [pytest.approx(first.get_y() + first.get_height() / 2)]
    assert [text.get_text() for text in ax.get_yticklabels()] == PATCHES
    assert set(labels(figure)) == {"memorized", "control", "published"}


def test_a_panel_for_every_variable(grid):
    data = xr.Dataset({"sscd": grid, "diversity": 1 - grid.mean("seed")})
    figure = plot.ablation(data, {"diversity": {"h": 0.6}})
    assert [ax.get_xlabel() for ax in figure.axes] == ["sscd", "diversity"]
    assert figure.axes[1].lines[-1].get_xdata() == [0.6]
    with pytest.raises(InterpError, match="several variables"):
        plot.ablation(data, {"h": 0.6})
    with pytest.raises(InterpError, match="axes prompt, seed"):
        plot.ablation(grid[0])


def test_roc_lines_are_the_curve(rng):
    curve = roc(rng.normal(1, 1, 30), rng.normal(0, 1, 40), resamples=20)
    figure = plot.roc({"one": curve, "two": curve})
    line = figure.axes[0].lines[1]
    np.testing.assert_allclose(line.get_xdata(), curve.fpr)
    np.testing.assert_allclose(line.get_ydata(), curve.tpr)
    assert figure.axes[0].lines[2].get_ydata().item() == float(curve.tpr.sel(fpr=0.01))
    assert f"one: {float(curve.auc):.3f} [{float(curve.auc_low):.3f}" in labels(figure)[0]
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(float(curve.tpr_low.min()))


def test_histograms_hold_every_score(rng):
    scores = known(rng.normal(0, 1, (12, 50)) + np.array(VIEWS)[:, None] / 10).rename("wen")
    figure = plot.detector_scores(scores, 1.5)
    ax = figure.axes[0]
    assert ax.lines[-1].get_xdata() == [1.5, 1.5]
    above = {k: float((scores.where(scores.kind == k, drop=True) > 1.5).mean()) for k in KIND}
    assert ax.get_title() == f"above: {above['memorized']:.0%} memorized, " + (
        f"{above['control']:.0%} control"
    )
    # Each kind's outline encloses the share 1, in bins of one width: its scores, all of them.
    assert len(ax.collections) == 2
    width = float(scores.max() - scores.min()) / 30
    for outline in ax.collections:
        x, y = outline.get_paths()[0].vertices.T
        area = abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2
        assert area == pytest.approx(width)
    several = plot.detector_scores(xr.Dataset({"a": scores, "b": scores, "c": scores}), {"b": 0.0})
    assert [ax.get_xlabel() for ax in several.axes[:3]] == ["a", "b", "c"]
    assert several.axes[1].get_title()
    assert not several.axes[0].get_title()
    assert [text.get_text() for text in several.legends[0].get_texts()] == list(above)
    with pytest.raises(InterpError, match="no coordinate 'kind'"):
        plot.detector_scores(scores.drop_vars("kind"))


def test_images_stand_in_their_cells(rng):
    pixels = rng.integers(255, size=(2, 3, 1, 20, 10, 3), dtype=np.uint8)
    images = xr.DataArray(
        pixels,
        dims=("patch", "prompt", "seed", "pixel_y", "pixel_x", "rgb"),
        coords={"patch": ["none", "h"], "text": ("prompt", ["a goat", "a cow", "a " * 40])},
    )
    ax = plot.image_grid(images).axes[0]
    shown = np.asarray(ax.images[0].get_array())
    for column, x in enumerate(ax.get_xticks()):
        for row, y in enumerate(ax.get_yticks()):
            corner = int(y - 9.5), int(x - 4.5)
            cell = shown[corner[0] : corner[0] + 20, corner[1] : corner[1] + 10]
            assert (cell == pixels[row, column, 0]).all()
    assert [text.get_text() for text in ax.get_yticklabels()] == ["none", "h"]
    assert ax.get_xticklabels()[0].get_text() == "a goat"
    assert ax.get_xticklabels()[2].get_text().endswith("…")
    turned = plot.image_grid(images.isel(seed=0), "prompt", "patch").axes[0]
    assert len(turned.get_yticks()) == 3
    with pytest.raises(InterpError, match="isel"):
        plot.image_grid(images, "patch", "seed")


def prompt(end, generator):
    embeds = torch.randn(77, 8, generator=generator)
    category = around(torch.arange(77), torch.tensor([end]))
    embeds[end + 1 :] = embeds[end] + 0.1 * embeds[end + 1 :]
    return Prompt("a", torch.zeros(77, dtype=torch.long), ("a",) * 77, category, embeds)


def test_similarities_are_cosines_by_position():
    generator = torch.Generator().manual_seed(0)
    a, b = prompt(3, generator), prompt(9, generator)
    b.embeds[20] = 0
    figure = plot.pad_similarity({"eot": [a, b], "!": a})
    first, second = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["eot", "!"]
    lines = [line for line in first.lines if len(line.get_xdata()) == 77]
    for line, each in zip(lines, (a, b), strict=True):
        eot = each.embeds[each.e].expand(77, -1)
        expected = torch.cosine_similarity(each.embeds, eot, dim=1)
        np.testing.assert_allclose(line.get_ydata(), expected, atol=1e-6)
        assert line.get_xdata()[each.e] == 0
    dots = {line.get_label(): line for line in second.lines}
    assert {name: len(dots[name].get_xdata()) for name in CATEGORIES} == a.counts
    assert {name: dots[name].get_color() for name in CATEGORIES} == INK


def test_components_keep_distances():
    """In the plane of all its points, a prompt of two dimensions is drawn as it is."""
    generator = torch.Generator().manual_seed(0)
    one = prompt(5, generator)
    one.embeds[:, 2:] = 0
    figure = plot.embedding_pca({"a": one, "b": [one]})
    points = {}
    for line in figure.axes[0].lines:
        at = one.at(line.get_label()).tolist()
        points |= dict(zip(at, line.get_xydata(), strict=True))
    drawn = torch.tensor(np.array([points[i] for i in range(77)]))
    assert torch.allclose(
        torch.cdist(drawn, drawn), torch.cdist(*[one.embeds.double()] * 2), atol=1e-5
    )
    assert "100%" not in figure.axes[0].get_xlabel()


def test_curves_are_means_at_each_level(grid):
    figure = plot.views_curve(grid[0])
    ax = figure.axes[0]
    memorized, control = ax.containers
    for container, kind, levels in ((memorized, "memorized", [4, 64]), (control, "control", [0])):
        line, _, (bars,) = container.lines
        assert line.get_xdata().tolist() == levels
        for level, y, ends in zip(levels, line.get_ydata(), bars.get_segments(), strict=True):
            of = grid[0].where((grid.kind == kind) & (grid.views == level), drop=True)
            found = intervals.mean(of)
            assert y == pytest.approx(float(found["mean"]))
            if level != 4:  # one image: no interval
                np.testing.assert_allclose(ends[:, 1], [found.low, found.high])
    assert ax.get_xscale() == "symlog"
    assert plot.views_curve(grid[0, :6]).axes[0].get_xscale() == "log"
    lengths = grid[0].assign_coords(length=("prompt", list(range(12))))
    assert plot.length_curve(lengths).axes[0].get_xscale() == "linear"
    with pytest.raises(InterpError, match="length"):
        plot.length_curve(grid[0])


def test_saving_writes_both_files_and_leaves_style_and_figures_alone(grid, tmp_path):
    before = dict(plt.rcParams)
    pdf, png = plot.save(plot.ablation(grid), tmp_path / "new", "bars")
    assert pdf.read_bytes()[:5] == b"%PDF-"
    assert png.read_bytes()[1:4] == b"PNG"
    assert pdf.read_bytes() == plot.save(plot.ablation(grid), tmp_path, "bars")[0].read_bytes()
    assert dict(plt.rcParams) == before
    assert plt.get_fignums() == []


def test_ink_has_the_hues_of_chips():
    from matplotlib.colors import rgb_to_hsv, to_rgb

    for category, colour in COLOURS.items():
        light, dark = rgb_to_hsv(to_rgb(colour)), rgb_to_hsv(to_rgb(INK[category]))
        assert abs(light[0] - dark[0]) < 0.05
        assert to_hex(INK[category]) == INK[category]
