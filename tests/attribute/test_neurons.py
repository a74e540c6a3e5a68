"""Silencing neurons against zeroed weights, and the search for them against brute force."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from skimage.metrics import structural_similarity

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


def test_one_scale_of_similarity_is_that_of_scikit_image() -> None:
    """Maps of 11 to 21 pixels have one scale, where the mean of products is not that of factors."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 20, 16, generator=generator)
    b = (a + 0.3 * torch.rand(2, 3, 20, 16, generator=generator)).clamp(0, 1)
    for one, other, found in zip(a, b, ms_ssim(a, b), strict=True):
        expected = structural_similarity(
            one.numpy(),
            other.numpy(),
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1.0,
            win_size=11,
        )
        assert float(found) == pytest.approx(float(expected), abs=1e-4)
    torch.testing.assert_close(ms_ssim(a, a), torch.ones(2))
    large = torch.rand(1, 1, 64, 64, generator=generator)
    # Noise that averages out is forgiven at coarser scales.
    noisy = (large + 0.2 * torch.randn(1, 1, 64, 64, generator=generator)).clamp(0, 1)
    assert 0 < float(ms_ssim(large, noisy)) < 1
    assert float(stretched(5 * large - 2).min()) == 0
    assert float(stretched(5 * large - 2).max()) == 1


def test_likeness_compares_first_predictions(sd) -> None:
    found = attribute.likeness(sd, A, seeds=[0, 1, 2])
    trace = sd.trace(A, [0, 1, 2], half=False)
    maps = torch.tensor((trace.eps_c - trace.latents).isel(prompt=0, step=0).values)
    maps = stretched(maps)
    for i, j in itertools.combinations(range(3), 2):
        expected = float(ms_ssim(maps[[i]], maps[[j]]))
        assert found[i, j].item() == pytest.approx(expected, abs=1e-4)
        assert found[j, i].item() == pytest.approx(expected, abs=1e-4)
    assert np.isnan(np.diag(found)).all()


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
    # By hand: whole layers from the last one on, then neurons from the first, are given back if the
    # similarity stays within the limit without them. What is kept was needed when its turn came.
    kept = {
        name: np.flatnonzero(found.candidate.sel(layer=name)).tolist()
        for name in found.layer.values.tolist()
    }

    def stays(neurons: dict[str, list[int]]) -> bool:
        some = {name: numbers for name, numbers in neurons.items() if numbers}
        return bool(some) and similarity(ip.silence(some)) <= limit

    for name in reversed(list(kept)):
        if stays({**kept, name: []}):
            kept[name] = []
    for name, numbers in list(kept.items()):
        for number in numbers:
            fewer = [other for other in kept[name] if other != number]
            if stays({**kept, name: fewer}):
                kept[name] = fewer
    assert patch == ip.silence({name: numbers for name, numbers in kept.items() if numbers})


def test_what_can_not_be_searched_is_refused(sd) -> None:
    usual = attribute.activations(sd, ["a goat", "a red car"])
    with pytest.raises(InterpError, match="it does not look memorized"):
        attribute.find_neurons(sd, A, usual, seeds=[0, 1], threshold=0.999)
    with pytest.raises(InterpError, match="are of 1 prompts"):
        attribute.find_neurons(sd, A, usual.isel(prompt=[0]))
    assert isinstance(usual, xr.DataArray)
