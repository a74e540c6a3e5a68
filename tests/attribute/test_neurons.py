"""Silencing neurons against zeroed weights, and the search for them against brute force."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from einops import rearrange, repeat
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

import interp as ip
from interp import InterpError, Patch, attribute, sites
from interp.attribute.likeness import ms_ssim, stretched
from interp.attribute.points import clean_points, predict
from tests.conftest import hook_count
from tests.runs import PROCESSORS, TEXTS, latents, processor

A = "antique church poster in Berlin"


@pytest.fixture
def sd(sd1):
    return ip.Session(sd1, steps=1, guidance=3.0)


def zeroed(pipe: Any, neurons: dict[str, list[int]], **call: Any) -> torch.Tensor:
    """The same run with the rows of the weights at zero, and the weights put back."""
    modules = {site.name: pipe.unet.get_submodule(site.path).to_v for site in sites(pipe.unet)}
    kept = {name: modules[name].weight.data.clone() for name in neurons}
    try:
        for name, numbers in neurons.items():
            modules[name].weight.data[numbers] = 0
        return latents(pipe, TEXTS, **call)
    finally:
        for name, weight in kept.items():
            modules[name].weight.data = weight


def test_silencing_is_zeroing_rows_of_the_weights(pipe) -> None:
    neurons = {"down.0.0": [0, 5, 15], "mid.0": [31]}
    expected, before = zeroed(pipe, neurons), hook_count(pipe)
    for kernel in PROCESSORS:
        with processor(pipe, kernel), ip.silence(neurons).on(pipe):
            found = latents(pipe, TEXTS)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert hook_count(pipe) == before
    assert float((latents(pipe, TEXTS) - expected).abs().max()) > 1e-3


def test_silencing_composes_and_stays_in_its_place(sd1) -> None:
    neurons = {"up.0.0": [3, 4]}
    values = {}

    def keep(module: Any, args: Any, output: torch.Tensor) -> None:
        values["now"] = output

    layer = next(site for site in sites(sd1.unet) if site.name == "up.0.0")
    projection = sd1.unet.get_submodule(layer.path).to_v
    (b,) = ip.encode(sd1, "a photo of a goat")
    patch = ip.swap("pad", b, "nearest", layers="up") & ip.silence(neurons, "pad", uncond=False)
    with ip.swap("pad", b, "nearest", layers="up").on(sd1):
        handle = projection.register_forward_hook(keep)
        latents(sd1, TEXTS[0], steps=1)
        plain = values["now"].clone()
        handle.remove()
    with patch.on(sd1):
        latents(sd1, TEXTS[0], steps=1)
        handle = projection.register_forward_hook(keep)
        latents(sd1, TEXTS[0], steps=1)
        handle.remove()
    (a,) = ip.encode(sd1, TEXTS[0])
    expected = plain.clone()
    expected[1, a.e + 1 :, [3, 4]] = 0
    torch.testing.assert_close(values["now"], expected)


def test_silences_survive_json_and_print(sd1) -> None:
    patch = ip.silence({"mid.0": [9, 2], "down.0.0": [1]}, steps=slice(0, 10))
    assert Patch.from_json(patch.to_json()) == patch
    assert repr(patch) == "silence({'mid.0': [2, 9], 'down.0.0': [1]}, steps=0:10)"
    assert not patch.edits_embeddings
    with pytest.raises(InterpError, match="32 outputs"), ip.silence({"mid.0": [32]}).on(sd1):
        latents(sd1, steps=1)
    with pytest.raises(InterpError, match="given no neurons"):
        ip.silence({"mid.0": []})


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_activations_are_those_of_a_run(make_pipe, kind: str) -> None:
    pipe = make_pipe(kind)
    sd = ip.Session(pipe, steps=1, guidance=3.0)
    found = attribute.activations(sd, list(TEXTS))
    for site in sites(pipe.unet):
        if site.block == "up":
            assert site.name not in found.layer.values
            continue
        seen: list[torch.Tensor] = []
        layer = pipe.unet.get_submodule(site.path).to_v
        handle = layer.register_forward_hook(lambda m, a, out, seen=seen: seen.append(out))
        latents(pipe, TEXTS, steps=1)
        handle.remove()
        expected = seen[0][-2:].abs().mean(1)
        mine = found.sel(layer=site.name).dropna("neuron")
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)
    with processor(pipe, "fused"):
        np.testing.assert_allclose(attribute.activations(sd, list(TEXTS)), found, rtol=1e-4)


BETAS = (0.33, 0.33, 0.33)


@pytest.mark.parametrize("size", [(64, 64), (44, 60), (96, 65)])
def test_similarity_is_that_of_the_library_which_the_authors_call(size) -> None:
    """All of it: the range found at every scale of the whole batch, weights of 0.99, the edges."""
    generator = torch.Generator().manual_seed(0)
    a = stretched(torch.randn(6, 4, *size, generator=generator))
    noise = torch.randn(6, 4, *size, generator=generator)
    shares = rearrange(torch.linspace(0.1, 1.5, 6), "row -> row 1 1 1")
    b = stretched(a + shares * noise)
    theirs = multiscale_structural_similarity_index_measure(a, b, reduction="none", betas=BETAS)
    torch.testing.assert_close(ms_ssim(a, b), theirs, atol=1e-5, rtol=1e-4)
    fixed = multiscale_structural_similarity_index_measure(
        a, b, reduction="none", betas=BETAS, data_range=1.0
    )
    torch.testing.assert_close(ms_ssim(a, b, data_range=1.0), fixed, atol=1e-5, rtol=1e-4)
    assert ((fixed - theirs) > 0.01).any()
    torch.testing.assert_close(ms_ssim(a, a), torch.ones(6))


def test_maps_that_are_too_small_for_the_library_have_fewer_scales() -> None:
    generator = torch.Generator().manual_seed(0)
    a = stretched(torch.rand(2, 3, 20, 16, generator=generator))
    b = stretched(a + 0.4 * torch.rand(2, 3, 20, 16, generator=generator))
    one = structural_similarity_index_measure(a, b, reduction="none")
    torch.testing.assert_close(ms_ssim(a, b), one**0.99, atol=1e-5, rtol=1e-4)
    for side in (1, 4, 8, 11, 22, 43):
        small = stretched(torch.rand(2, 3, side, side, generator=generator))
        torch.testing.assert_close(ms_ssim(small, small), torch.ones(2))
    constant = torch.zeros(1, 3, 16, 16)
    torch.testing.assert_close(ms_ssim(constant, constant), torch.ones(1))
    assert float(stretched(5 * a - 2).min()) == 0
    assert float(stretched(5 * a - 2).max()) == 1


def at_second_timestep(sd, prompt, seeds) -> torch.Tensor:
    """The maps of the authors' code: the noise of the first timestep, predicted at the second."""
    points = clean_points(sd, prompt, seeds, 0)
    sd.pipe.scheduler.set_timesteps(sd.steps)
    t = sd.pipe.scheduler.timesteps[1]
    text = repeat(prompt.embeds, "p c -> row p c", row=len(seeds))
    with torch.no_grad():
        eps = sd.pipe.unet(points.latents, t, encoder_hidden_states=text).sample
    return stretched(eps - points.latents)


def test_likeness_is_the_authors_at_the_second_timestep(sd1) -> None:
    sd, seeds = ip.Session(sd1, steps=4, guidance=3.0), [0, 1, 2]
    maps = at_second_timestep(sd, sd.encode(A), seeds)
    i, j = torch.tensor(list(itertools.combinations(range(3), 2))).T
    expected = ms_ssim(maps[i], maps[j])
    found = attribute.likeness(sd, A, seeds)
    np.testing.assert_allclose(found.values[i, j], expected, atol=1e-4)
    np.testing.assert_allclose(found.values[j, i], expected, atol=1e-4)
    assert np.isnan(np.diag(found)).all()
    assert not np.allclose(found, attribute.likeness(sd, A, seeds, timestep=0), equal_nan=True)
    with pytest.raises(InterpError, match="has 4, counted from 0"):
        attribute.likeness(sd, A, seeds, timestep=4)


def test_likeness_compares_first_predictions(sd) -> None:
    found = attribute.likeness(sd, A, seeds=[0, 1, 2], timestep=0, data_range=1.0)
    trace = sd.trace(A, [0, 1, 2], half=False)
    maps = torch.tensor((trace.eps_c - trace.latents).isel(prompt=0, step=0).values)
    maps = stretched(maps)
    for i, j in itertools.combinations(range(3), 2):
        expected = float(ms_ssim(maps[[i]], maps[[j]], 1.0))
        assert found[i, j].item() == pytest.approx(expected, abs=1e-4)
    assert np.isnan(attribute.likeness(sd, A, seeds=[0])).all()


def test_found_neurons_are_needed_and_suffice(sd) -> None:
    a = sd.encode(A)
    usual = attribute.activations(sd, ["a goat", "a red car", "two cats on a mat", "the sea"])
    # Random weights memorize nothing: the threshold is set where silencing has something to do.
    pairs = attribute.likeness(sd, a, seeds=[0, 1])
    low = float(pairs.max()) - 1e-3
    everything = {
        site.name: list(range(sd.pipe.unet.get_submodule(site.path).to_v.out_features))
        for site in sites(sd.pipe.unet)
        if site.block != "up"
    }

    def similarity(patch: Patch) -> float:
        points = clean_points(sd, a, [0, 1], 0)
        with torch.no_grad(), patch.on(sd.pipe, tokens=a, guided=False):
            eps = predict(sd, points, a.embeds)
        maps = [stretched(e - points.latents) for e in (points.eps_c, eps)]
        return float(ms_ssim(*maps).max())

    floor = similarity(ip.silence(everything))
    threshold = max(low, 0) if floor <= low else low
    found = attribute.find_neurons(sd, a, usual, seeds=[0, 1], threshold=threshold)
    patch = attribute.silencing(found)
    assert Patch.from_json(patch.to_json()) == patch
    reached = found.similarity.sel(stage="refined").item()
    assert similarity(patch) == pytest.approx(reached, abs=1e-5)
    limit = max(threshold, found.similarity.sel(stage="candidates").item())
    assert reached <= limit + 1e-6
    assert bool((found.candidate | ~found.silenced).all())
    # What was chosen, by torch: unusual by the deviation of a sample, then the most active.
    values = torch.tensor(usual.values)
    z = (torch.tensor(attribute.activations(sd, a).values[0]) - values.mean(0)) / values.std(0)
    np.testing.assert_allclose(found.z, z, rtol=1e-3, atol=1e-3)


def test_what_can_not_be_searched_is_refused(sd) -> None:
    usual = attribute.activations(sd, ["a goat", "a red car"])
    with pytest.raises(InterpError, match="it does not look memorized"):
        attribute.find_neurons(sd, A, usual, seeds=[0, 1], threshold=0.999)
    with pytest.raises(InterpError, match="holds the activations of 1 prompts"):
        attribute.find_neurons(sd, A, usual.isel(prompt=[0]))
    assert isinstance(usual, xr.DataArray)


def test_a_prompt_that_looks_memorized_is_silenced_and_others_are_left_alone(sd) -> None:
    usual = attribute.activations(sd, ["a goat", "a photo of a horse", "the sea"])
    alike = float(attribute.likeness(sd, A, 2).max())
    shield = attribute.SilenceNeurons(usual, alike - 1e-3, seeds=2)
    found = attribute.find_neurons(
        sd, A, usual, seeds=2, threshold=alike - 1e-3, refine=False
    )  # fmt: skip
    assert bool((found.silenced == found.candidate).all())
    patch = attribute.silencing(found)
    both = sd.run(A, [3], {"search": shield, "patch": patch}).image
    np.testing.assert_array_equal(both.sel(patch="search"), both.sel(patch="patch"))
    calm = attribute.SilenceNeurons(usual, alike + 1e-3, seeds=2)
    assert calm.rewrite(sd, sd.encode(A), [0]).text == A
    assert calm.to_json() != shield.to_json()
