"""Attribution patching against finite differences of the exact map, and across kernels."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from einops import rearrange

import interp as ip
from interp import InterpError, attribute, sites
from interp.attribute.heads import attended, effects
from interp.attribute.points import clean_points, predict
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
    step = 0.05
    small = {
        f"{name} {sign}": ip.swap(name, moved(a, patch.embeds(a), sign * step))
        for name, patch in patches.items()
        for sign in (1, -1)
    }
    exact = attribute.causal_trace(sd, a, small, heads="all", side=("k", "v"))
    estimate = attribute.attribution_patching(sd, a, small)
    for name in patches:
        ends = [exact["value"].sel(patch=f"{name} {sign}", drop=True) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step)
        both = [estimate.estimate.sel(patch=f"{name} {sign}", drop=True) for sign in (1, -1)]
        every = (both[0] - both[1]) / (2 * step)
        found = every.sel(category=name, drop=True)
        there = slope.notnull()
        error = np.sqrt(((slope - found) ** 2).sum() / (slope**2).sum()).item()
        assert error < 0.01
        assert (found.notnull() == there).all()
        assert float(abs(slope).max()) > 0.002
        others = every.drop_sel(category=name)
        assert float(abs(others).max()) < 1e-5
    np.testing.assert_allclose(estimate.clean, exact.clean, rtol=1e-5)


def test_a_single_heads_output_is_changed_exactly(sd1) -> None:
    """Where the value is linear in the output of the layer, the estimate is the exact change."""
    sd = ip.Session(sd1, steps=1, guidance=3.0)
    a, b = sd.encode([A, B])
    points = clean_points(sd, a, [0], 0)
    site = sites(sd1.unet)[-1]
    attention = sd1.unet.get_submodule(site.path)
    with attended(sd1.unet, [site]) as (queries, leaves), torch.enable_grad():
        predict(sd, points, a.embeds).sum().backward(inputs=[leaves[site]])
    split = lambda x: rearrange(x, "n p (h d) -> n h p d", h=site.heads)  # noqa: E731
    q, g = split(queries[site]), split(torch.randn_like(leaves[site]))
    both = torch.stack([a.embeds, ip.swap(("eot", "pad"), b, "nearest").embeds(a)])
    k, v = (split(layer(both)).detach() for layer in (attention.to_k, attention.to_v))
    members = a.category[:, None] == torch.arange(4)
    places = "n h p d -> n p h d"
    texts = (rearrange(part, places) for part in (k, v))
    found = effects(q, torch.stack([g, -g]), *texts, members, attention.scale)
    attend = torch.nn.functional.scaled_dot_product_attention
    for side, category in itertools.product(range(2), range(4)):
        chosen = members[:, category, None]
        sides = [torch.where(chosen, x[1:], x[:1]) if n == side else x[:1]
                 for n, x in enumerate((k, v))]  # fmt: skip
        change = ((attend(q, *sides) - attend(q, k[:1], v[:1])) * g).sum((2, 3))
        torch.testing.assert_close(found[0, 0, side, ..., category], change, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[0], -found[1])


def test_a_change_across_the_guidance_makes_it_longer(sd1) -> None:
    """Of one head: the change of the prediction by finite differences, and its norm by hand."""
    sd = ip.Session(sd1, steps=1, guidance=3.0)
    a, b = sd.encode([A, B])
    patch, site, head = ip.swap(("eot", "pad"), b, "nearest"), sites(sd1.unet)[1], 1
    found = attribute.attribution_patching(sd, a, patch, layers=site.name, probes=64)
    points = clean_points(sd, a, [0], 0)
    attention = sd1.unet.get_submodule(site.path)
    values = rearrange(
        attention.to_v(patch.embeds(a) - a.embeds).detach(), "p (h d) -> p h d", h=site.heads
    )  # fmt: skip

    def predicted(share: float) -> torch.Tensor:
        """The prediction where the head reads so much of what the patch adds to its values."""

        def read(module: Any, args: tuple) -> tuple:
            q, k = (rearrange(x, "n p (h d) -> n h p d", h=site.heads) for x in asked)
            probs = (q @ k.transpose(-1, -2) * attention.scale).softmax(-1)[:, head]
            out = rearrange(args[0].clone(), "n p (h d) -> n p h d", h=site.heads)
            out[:, :, head] += share * probs @ values[:, head]
            return (rearrange(out, "n p h d -> n p (h d)"),)

        asked: list[torch.Tensor] = []
        hooks = [
            attention.to_q.register_forward_hook(lambda m, args, out: asked.append(out)),
            attention.to_k.register_forward_hook(lambda m, args, out: asked.append(out)),
            attention.to_out[0].register_forward_pre_hook(read),
        ]
        try:
            with torch.no_grad():
                return predict(sd, points, a.embeds)[0].double()
        finally:
            for hook in hooks:
                hook.remove()

    moved = (predicted(1e-2) - predicted(-1e-2)) / 2e-2
    guided = (points.eps_c - points.eps_u)[0].double()
    along = float((moved * guided).sum() / guided.norm())
    across = float((moved.norm() ** 2 - along**2) ** 0.5)
    at = {"side": "v", "head": head, "layer": site.name}
    shift = found["shift"].sel(at).sum("category").squeeze(drop=True)
    assert float(shift[0]) == pytest.approx(along, rel=0.02)
    rest = float((shift[1:] ** 2).mean()) ** 0.5
    assert 0.7 * across < rest < 1.3 * across, "64 projections are within 27 % at 3 deviations"
    joined = attribute.together(found, ["category"]).sel(at).item()
    n = float(guided.norm())
    assert joined == pytest.approx(((n + float(shift[0])) ** 2 + rest**2) ** 0.5 - n, rel=1e-3)


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
    # Two traces of 2 steps guided, two points of 1 forward and 4 backward passes each; eot and pad
    # under one patch, and pad.
    assert data.attrs["unet_rows"] == 2 * 2 * 2 + 2 * 9
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
    # To first order, turned upside down: so are the ranks.
    first = estimate.isel(probe=[0])
    turned = first.assign(shift=-first["shift"])
    assert attribute.agreement(exact, turned).spearman.item() == pytest.approx(
        -attribute.agreement(exact, first).spearman.item()
    )
    with pytest.raises(InterpError, match="They have no cell in common"):
        attribute.agreement(exact, estimate.assign_coords(seed=[7, 8]))
    with pytest.raises(InterpError, match="direction='necessary'"):
        attribute.agreement(exact.expand_dims(direction=["sufficient"]), estimate)


def test_any_differentiable_value(sd1) -> None:
    sd = ip.Session(sd1, steps=1, guidance=3.0)
    a, b = sd.encode([A, B])
    doubled = attribute.noise_value(lambda c, u: 2 * (c - u).flatten(1).norm(dim=1), "doubled")
    patch = ip.swap("pad", b, "nearest")
    norm = attribute.noise_value(lambda c, u: (c - u).flatten(1).norm(dim=1), "norm")
    once = attribute.attribution_patching(sd, a, patch, value=norm)
    assert once.sizes["probe"] == 1
    twice = attribute.attribution_patching(sd, a, patch, value=doubled)
    np.testing.assert_allclose(twice.estimate, 2 * once.estimate, atol=1e-5)


def test_what_has_no_gradient_map_is_refused(sd1) -> None:
    sd = ip.Session(sd1, steps=1, guidance=3.0)
    for patch in (ip.mask("pad"), ip.zero("pad", layers="up"), ip.repad("!")):
        with pytest.raises(InterpError, match="edits of the embeddings that hold everywhere"):
            attribute.attribution_patching(sd, A, patch)
    with pytest.raises(InterpError, match="one step at a time"):
        attribute.attribution_patching(sd, A, ip.zero("pad"), value=attribute.guidance(steps=0))
