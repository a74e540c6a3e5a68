"""Attributions of embeddings against finite differences, single runs and each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

import interp as ip
from interp import InterpError, attribute

A, B = "antique church poster in Berlin", "a photo of a goat"


@pytest.fixture
def sd(sd1):
    return ip.Session(sd1, steps=1, guidance=3.0)


def value(sd: ip.Session, a: ip.Prompt, embeds: torch.Tensor, seeds=(0,)) -> float:
    """The mean norm of the guidance at the first step, from plain runs."""
    trace = sd.trace(replace(a, embeds=embeds), seeds, half=False).isel(step=0)
    norms = np.sqrt(((trace.eps_c - trace.eps_u) ** 2).sum(("channel", "latent_y", "latent_x")))
    return norms.mean().item()


def test_methods_agree_with_what_they_mean(sd) -> None:
    a, b = sd.encode([A, B])
    near = replace(
        a, embeds=a.embeds + 0.1 * (ip.swap(ip.CATEGORIES, b, "nearest").embeds(a) - a.embeds)
    )
    data = attribute.tokens(sd, a, baseline=near, seeds=[0, 3], points=8, samples=2)
    by_hand = [value(sd, a, p.embeds, (0, 3)) for p in (a, near)]
    np.testing.assert_allclose([data.value.item(), data.value_baseline.item()], by_hand, rtol=1e-5)
    change = by_hand[0] - by_hand[1]
    total = data.attribution.sum("position")[:, 0]
    np.testing.assert_allclose(total.sel(by="integrated_gradients"), change, rtol=0.02)
    np.testing.assert_allclose(total.sel(by="shapley"), change, atol=1e-4)
    for position in (2, a.e, 40):
        lost = a.embeds.clone()
        lost[position] = near.embeds[position]
        expected = by_hand[0] - value(sd, a, lost, (0, 3))
        found = data.attribution.sel(by="ablation", position=position).item()
        assert found == pytest.approx(expected, abs=2e-5)
    assert list(data.word[0, :3].values) == ["<|startoftext|>", "antique", "church"]
    assert data.category[0, a.e] == "eot"
    # A donor's sot is the prompt's own.
    np.testing.assert_allclose(data.attribution.sel(position=0), 0, atol=1e-5)


def test_gradients_are_finite_differences(sd) -> None:
    a, b = sd.encode([A, B])
    other = ip.swap(ip.CATEGORIES, b, "nearest").embeds(a)
    data = attribute.tokens(sd, a, "gradient_x_input", baseline=b)
    for position in (3, a.e):
        ends = []
        for sign in (1, -1):
            moved = a.embeds.clone()
            moved[position] += sign * 0.02 * (a.embeds - other)[position]
            ends.append(value(sd, a, moved))
        found = data.attribution.sel(position=position).item()
        assert found == pytest.approx((ends[0] - ends[1]) / 0.04, rel=0.01, abs=2e-4)


def test_significance_is_the_norm_of_the_gradient_on_the_right_trajectory(sd1) -> None:
    """By autograd at the UNet itself, one row at a time, on the latents of plain runs."""
    sd = ip.Session(sd1, steps=2, guidance=3.0)
    a = sd.encode(A)
    data = attribute.significance(sd, a, seeds=[0, 5])
    trace = sd.trace(a, [0, 5], half=False).isel(prompt=0)
    for step in range(2):
        leaf = a.embeds.clone().requires_grad_()
        norms = []
        for seed in range(2):
            point = trace.isel(seed=seed, step=step)
            latents, eps_u = (
                torch.tensor(point[name].values)[None] for name in ("latents", "eps_u")
            )
            eps_c = sd1.unet(latents, float(point.timestep), leaf[None]).sample
            norms.append((eps_c - eps_u).norm())
        (gradient,) = torch.autograd.grad(sum(norms) / 2, leaf)
        found = data.significance.isel(prompt=0, step=step)
        np.testing.assert_allclose(found, gradient.norm(dim=1), rtol=1e-3, atol=1e-6)
    twice = attribute.significance(sd, a, seeds=[0, 0]).significance
    alone = attribute.significance(sd, a, seeds=[0]).significance
    np.testing.assert_allclose(twice, alone, rtol=1e-4, atol=1e-6)


def test_sampling_leaves_the_global_generator_alone(sd) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = attribute.tokens(sd, A, "shapley", samples=1)
    assert torch.equal(torch.rand(1), expected)
    xr.testing.assert_equal(first, attribute.tokens(sd, A, "shapley", samples=1))


def test_unknown_methods_are_refused(sd) -> None:
    with pytest.raises(InterpError, match="Methods are integrated_gradients"):
        attribute.tokens(sd, A, "magic")
    with pytest.raises(InterpError, match="values are functions of noise predictions"):
        attribute.tokens(sd, A, value=attribute.similarity(ip.metrics.pixel_l2))
