"""Figures of attribution: what is drawn is read back from the axes."""

import numpy as np
import pytest
import xarray as xr

from interp import plot
from interp.attribute import bootstrap, solve
from interp.attribute.games import COALITION
from interp.errors import InterpError
from interp.text.categories import CATEGORIES

LAYERS = ["down.0.0", "mid.0", "up.0.0"]


def draw(*sizes):
    return np.random.default_rng(0).normal(size=sizes)


@pytest.fixture
def phi():
    """A game of the four categories for 3 prompts and 2 seeds."""
    worth = xr.DataArray(draw(16, 3, 2), dims=(COALITION, "prompt", "seed"))
    data = solve(worth, list(CATEGORIES)).assign_coords(prompt=range(3), seed=range(2))
    for name in ("phi", "interaction"):
        data[f"{name}_interval"] = bootstrap(data[name], 0.95)
    return data


@pytest.fixture
def estimate():
    return xr.DataArray(
        draw(2, 3, 2, 5, 3, 4, 3),
        dims=("side", "prompt", "seed", "step", "layer", "head", "category"),
        coords={"side": ["k", "v"], "layer": LAYERS, "category": ["prompt", "eot", "pad"]},
    )


def test_shapley_bars_are_the_means_with_their_intervals(phi):
    figure = plot.shapley_bars(phi)
    bars, matrix = figure.axes[:2]
    means = phi.phi.mean(["prompt", "seed"])
    np.testing.assert_allclose([bar.get_height() for bar in bars.patches], means)
    whiskers = bars.collections[0].get_segments()
    low = phi.phi_interval.isel(bound=0).values
    np.testing.assert_allclose([segment[:, 1].min() for segment in whiskers], low)
    pairs = matrix.images[0].get_array()
    expected = phi.interaction.mean(["prompt", "seed"]).values
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(np.asarray(pairs)[off], expected[off])


def test_layer_step_maps_have_a_panel_for_every_side_and_category(estimate):
    values = estimate.sum("head")
    figure = plot.layer_step_map(values, label="change")
    panels = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in panels[:4]] == ["prompt, k", "eot, k", "pad, k", "prompt, v"]
    expected = values.mean(["prompt", "seed"]).sel(side="v", category="eot")
    np.testing.assert_allclose(panels[4].images[0].get_array(), expected.transpose("layer", "step"))
    assert [tick.get_text() for tick in panels[0].get_yticklabels()] == LAYERS
    low, high = panels[0].images[0].get_clim()
    assert low == -high


def test_a_map_without_sides_is_one_row(estimate):
    figure = plot.layer_step_map(estimate.sum(["head", "side"]))
    assert len([ax for ax in figure.axes if ax.images]) == 3


def test_head_grid_leaves_absent_heads_blank(estimate):
    values = estimate.sum(["side", "step"])
    values[{"layer": 0, "head": 3}] = np.nan
    figure = plot.head_grid(values)
    shown = np.ma.masked_invalid(figure.axes[2].images[0].get_array())
    expected = values.mean(["prompt", "seed"]).sel(category="pad").transpose("layer", "head")
    assert shown.mask[0, 3]
    np.testing.assert_allclose(shown.compressed(), expected.values[~shown.mask])


def test_running_sums_end_at_the_total(estimate):
    values = estimate.sum(["side", "layer", "head"])
    lines = plot.running_sum(values).axes[0].get_lines()
    total = values.sum("step").mean(["prompt", "seed"])
    ends = {line.get_label(): line.get_ydata()[-1] for line in lines}
    for category in ("prompt", "eot", "pad"):
        assert ends[category] == pytest.approx(float(total.sel(category=category)))


def test_the_scatter_has_every_cell_and_the_correlation():
    exact, guess = draw(4, 3), draw(4, 3) * 0.5
    both = xr.Dataset({"exact": (("step", "layer"), exact), "estimate": (("step", "layer"), guess)})
    both["spearman"] = xr.DataArray(1.0)
    ax = plot.agreement_scatter(both).axes[0]
    dots = ax.get_lines()[-1]
    np.testing.assert_allclose(dots.get_xydata(), np.stack([exact.ravel(), guess.ravel()], 1))
    assert ax.get_title() == "Spearman 1.00, 12 cells"


def test_axes_that_are_left_over_are_named(estimate):
    with pytest.raises(InterpError, match="Select or sum the others: head"):
        plot.layer_step_map(estimate)
    with pytest.raises(InterpError, match="Select or sum the others: head"):
        plot.head_grid(estimate.sum(["side", "step", "head"]))
