"""Attribution patching against finite differences of the exact map, and across kernels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import interp as ip
from interp import InterpError, attribute, sites
from tests.conftest import hook_count
from tests.runs import PROCESSORS, processor

A, B = "antique church poster in Berlin", "a photo of a goat"


def moved(a: ip.Prompt, edited: torch.Tensor, factor: float) -> ip.Prompt:
    """The prompt, part of the way to other embeddings (or beyond, or away from them)."""
    return replace(a, embeds=a.embeds + factor * (edited - a.embeds))


@pytest.mark.slow
def test_estimates_are_finite_differences_of_the_exact_map(pipe) -> None:
    sd = ip.Session(pipe, steps=2, guidance=3.0)
    a, b = sd.encode([A, B])
    patches = {name: ip.swap(name, b, "nearest") for name in ("eot", "pad")}
    estimate = attribute.attribution_patching(sd, a, patches)
    step = 0.05
    small = {
        f"{name} {sign}": ip.swap(name, moved(a, patch.embeds(a), sign * step))
        for name, patch in patches.items()
        for sign in (1, -1)
    }
    exact = attribute.causal_trace(sd, a, small, heads="all", side=("k", "v"))
    for name in patches:
        ends = [exact["value"].sel(patch=f"{name} {sign}", drop=True) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step)
        found = estimate.estimate.sel(patch=name, category=name, drop=True)
        there = slope.notnull()
        error = np.sqrt(((slope - found) ** 2).sum() / (slope**2).sum()).item()
        assert error < 0.01
        assert (found.notnull() == there).all()
        assert float(abs(slope).max()) > 0.002
        others = estimate.estimate.sel(patch=name).drop_sel(category=name)
        assert float(abs(others).max()) == 0
    np.testing.assert_allclose(estimate.clean, exact.clean, rtol=1e-5)


def test_estimates_of_categories_add_up(sd1) -> None:
    sd = ip.Session(sd1, steps=2, guidance=3.0)
    a, b = sd.encode([A, B])
    together = {"both": ip.swap(("eot", "pad"), b, "nearest"), "pad": ip.swap("pad", b, "nearest")}
    data = attribute.attribution_patching(sd, a, together, seeds=[0, 1], steps=1)
    pads = data.estimate.sel(category="pad")
    xr.testing.assert_allclose(pads.sel(patch="both", drop=True), pads.sel(patch="pad", drop=True))
    small = ip.Session(sd1, steps=2, guidance=3.0, budget=1e-9)
    again = attribute.attribution_patching(small, a, together, seeds=[0, 1], steps=1)
    np.testing.assert_allclose(data.estimate, again.estimate, atol=1e-4)
    # Two traces of 2 steps guided, two points at 3 rows each; eot and pad under one patch, and pad.
    assert data.attrs["unet_rows"] == 2 * 2 * 2 + 2 * 3
    assert data.attrs["unet_rows_naive"] == 3 * len(sites(sd1.unet)) * 1 * (2 * 2 * 2)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_gradients_agree_across_attention_kernels(make_pipe, kind: str) -> None:
    pipe = make_pipe(kind)
    sd = ip.Session(pipe, steps=1, guidance=3.0)
    a, b = sd.encode([A, B])
    before, maps = hook_count(pipe), []
    for kernel in PROCESSORS:
        with processor(pipe, kernel):
            maps.append(
                attribute.attribution_patching(sd, a, ip.swap(("eot", "pad"), b, "nearest"))
            )
    assert hook_count(pipe) == before
    scale = float(abs(maps[0].estimate).max())
    assert scale > 0.01
    for other in maps[1:]:
        np.testing.assert_allclose(other.estimate, maps[0].estimate, atol=1e-4 * scale)


@pytest.mark.slow
def test_agreement_ranks_the_same_cells(sd1) -> None:
    sd = ip.Session(sd1, steps=2, guidance=3.0)
    a, b = sd.encode([A, B])
    # Half of the way, so that the first order says something.
    patches = {
        name: ip.swap(name, moved(a, ip.swap(name, b, "nearest").embeds(a), 0.2))
        for name in ("eot", "pad")
    }
    exact = attribute.causal_trace(sd, a, patches, side=("k", "v"), seeds=[0, 1])
    estimate = attribute.attribution_patching(sd, a, patches, seeds=[0, 1])
    both = attribute.agreement(exact, estimate)
    assert both.exact.dims == both.estimate.dims
    assert both.spearman.item() > 0.9
    again = attribute.agreement(exact, estimate, by=["side", "layer"])
    assert dict(again.spearman.sizes) == {"side": 2, "layer": exact.sizes["layer"]}
    # One seed turned upside down: ranks fall.
    turned = estimate.assign(estimate=-estimate.estimate)
    assert attribute.agreement(exact, turned).spearman.item() == pytest.approx(
        -both.spearman.item()
    )
    with pytest.raises(InterpError, match="They have no cells in common"):
        attribute.agreement(exact, estimate.assign_coords(seed=[7, 8]))
    with pytest.raises(InterpError, match="direction='necessary'"):
        attribute.agreement(exact.expand_dims(direction=["sufficient"]), estimate)


def test_any_differentiable_value(sd1) -> None:
    sd = ip.Session(sd1, steps=1, guidance=3.0)
    a, b = sd.encode([A, B])
    doubled = attribute.noise_value(lambda c, u: 2 * (c - u).flatten(1).norm(dim=1), "doubled")
    patch = ip.swap("pad", b, "nearest")
    once = attribute.attribution_patching(sd, a, patch)
    twice = attribute.attribution_patching(sd, a, patch, value=doubled)
    np.testing.assert_allclose(twice.estimate, 2 * once.estimate, atol=1e-5)


def test_what_has_no_gradient_map_is_refused(sd1) -> None:
    sd = ip.Session(sd1, steps=1, guidance=3.0)
    for patch in (ip.mask("pad"), ip.zero("pad", layers="up"), ip.repad("!")):
        with pytest.raises(InterpError, match="edits of the embeddings that apply everywhere"):
            attribute.attribution_patching(sd, A, patch)
    with pytest.raises(InterpError, match="at single steps"):
        attribute.attribution_patching(sd, A, ip.zero("pad"), value=attribute.guidance(steps=0))
