"""Detectors that follow a run beside something else: controls, a training image, a derivative."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import EulerDiscreteScheduler

import interp as ip
from interp.denoiser.derivatives import signs
from interp.detect import (
    Case,
    curvature,
    curvature_map,
    decomposition,
    early_image,
    guidance_map,
    instability,
    update_norm,
)
from interp.detect.decomposition import training_latent
from interp.errors import InterpError
from tests.detect.plain import Plain, jacobian
from tests.runs import TEXTS

SEEDS, STEPS, SIZE = (0, 5), 5, 8


@pytest.fixture(params=["sd1", "sd2"])
def sd(request):
    pipe = request.getfixturevalue(request.param)
    return ip.Session(pipe, steps=STEPS, height=SIZE, width=SIZE)


def stock(pipe, seed, text=TEXTS[0]):
    """Latents and timesteps of a stock run, one more latent than there are steps."""
    seen = []
    handle = pipe.unet.register_forward_pre_hook(lambda _, args: seen.append((args[0], args[1])))
    draw = torch.Generator().manual_seed(seed)
    end = pipe(text, num_inference_steps=STEPS, generator=draw, output_type="latent", height=SIZE,
               width=SIZE).images  # fmt: skip
    handle.remove()
    return [latents[:1] for latents, _ in seen] + [end], [int(t) for _, t in seen]


def test_update_norms_are_those_of_a_stock_run(sd):
    found = update_norm(sd.trace(TEXTS, SEEDS, half=False))
    assert found.dims == ("prompt", "seed", "step")
    assert found.step.values.tolist() == list(range(STEPS))
    for row, text in enumerate(TEXTS):
        for seed in SEEDS:
            path, _ = stock(sd.pipe, seed, text)
            moved = [float((b - a).norm()) for a, b in pairwise(path)]
            values = found.isel(prompt=row).sel(seed=seed)
            np.testing.assert_allclose(values, moved, rtol=1e-3)


def test_an_update_is_of_variance_1_for_samplers_that_scale(sd1):
    """Noise that Euler's sampler makes 14 times as large is seen as the UNet sees it."""
    parts = dict(sd1.components)
    parts["scheduler"] = EulerDiscreteScheduler.from_config(sd1.scheduler.config)
    pipe = type(sd1)(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    sd = ip.Session(pipe, steps=STEPS, height=SIZE, width=SIZE)
    path, _ = stock(pipe, 0)
    found = update_norm(sd.trace(TEXTS[0], [0], half=False))
    assert float(path[0].std()) == pytest.approx(1, abs=0.3)
    moved = [float((b - a).norm()) for a, b in pairwise(path)]
    np.testing.assert_allclose(found.squeeze(), moved, rtol=1e-3)


def test_instability_is_the_share_of_steps_outside_the_band(sd):
    texts = ["the sea", "a red car", "two cats", TEXTS[0]]
    controls = sd.trace(texts, [1, 2, 3], half=False)
    norms = update_norm(controls).transpose("step", "prompt", "seed").values.reshape(STEPS, -1)
    found = instability(Case(sd, TEXTS[0], SEEDS, controls=controls), 0.2)
    for seed in SEEDS:
        path, _ = stock(sd.pipe, seed)
        moved = [float((b - a).norm()) for a, b in pairwise(path)]
        outside = [
            not np.quantile(usual, 0.2) <= one <= np.quantile(usual, 0.8)
            for one, usual in zip(moved, norms, strict=True)
        ]
        assert found.sel(seed=seed).item() == pytest.approx(np.mean(outside))
    itself = Case(sd, TEXTS[0], [1, 2, 3], controls=controls)
    itself.trace = controls.isel(prompt=[3])
    assert not instability(itself, 0.0).any()


def test_controls_that_do_not_fit_are_refused(sd):
    with pytest.raises(InterpError, match="has no controls"):
        instability(Case(sd, TEXTS[0], SEEDS))
    shorter = ip.Session(sd.pipe, steps=3, height=SIZE, width=SIZE).trace("a", half=False)
    with pytest.raises(InterpError, match="have 3 steps"):
        instability(Case(sd, TEXTS[0], SEEDS, controls=shorter))
    with pytest.raises(InterpError, match="below 0.5"):
        instability(Case(sd, TEXTS[0], SEEDS, controls=shorter), 0.5)


def test_curvature_is_the_jacobians_diagonal_and_its_proxy_a_square(sd):
    plain = Plain(sd.pipe, TEXTS[0], size=4)
    case = Case(sd, TEXTS[0], SEEDS)
    probes = signs((4, 4, 4), 3, seed=1)
    found = curvature_map(case, probes=3, probe_seed=1)
    proxy = guidance_map(case.trace).isel(prompt=0)
    for seed in SEEDS:
        path, timesteps = stock(sd.pipe, seed)
        z, t = path[STEPS - 1], timesteps[-1]
        whole = jacobian(lambda x, t=t: plain.delta(x, t), z)
        estimates = torch.stack([v.flatten() * (whole.T @ v.flatten()) for v in probes]).mean(0)
        expected = estimates.reshape(4, 4, 4).sum(0).clamp_min(0)
        assert 0 < (expected > 0).sum() < 16
        np.testing.assert_allclose(found.sel(seed=seed), expected, rtol=5e-3, atol=1e-4)
        square = plain.delta(z, t)[0].detach().square().sum(0)
        np.testing.assert_allclose(proxy.sel(seed=seed), square, rtol=5e-3, atol=1e-5)
    means = found.mean(["latent_y", "latent_x"])
    xr.testing.assert_allclose(curvature(case, probes=3, probe_seed=1), means)


@pytest.fixture
def training(sd):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def test_decomposition_is_least_squares_on_image_and_noise(sd, training):
    pipe = sd.pipe
    case = Case(sd, TEXTS[0], SEEDS, training=training)
    pixels = torch.tensor(training).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        image = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    found, early = decomposition(case), early_image(case)
    for seed in SEEDS:
        path, timesteps = stock(pipe, seed)
        abar = pipe.scheduler.alphas_cumprod[timesteps]
        design = torch.stack([image.flatten(), path[0].flatten()])
        fits = torch.linalg.solve(design @ design.T, design @ torch.cat(path[:-1]).flatten(1).T)
        np.testing.assert_allclose(found.sel(seed=seed), fits, rtol=1e-3, atol=1e-4)
        expected = float((fits[0] - abar.sqrt()).mean())
        assert early.sel(seed=seed).item() == pytest.approx(expected, rel=1e-3)
        np.testing.assert_allclose(found.schedule.sel(part="noise"), (1 - abar).sqrt(), rtol=1e-5)
    np.testing.assert_allclose(found.isel(step=0).sel(part="image"), 0, atol=1e-6)
    np.testing.assert_allclose(found.isel(step=0).sel(part="noise"), 1, atol=1e-6)


def test_a_run_that_follows_the_schedule_to_the_image_has_its_shares(sd, training):
    """What a model does that knows nothing but the training image."""
    case = Case(sd, TEXTS[0], SEEDS, training=training)
    image = training_latent(case)[0].numpy()
    trace = case.trace
    noise = trace.latents.isel(step=0)
    a, b = np.sqrt(trace.alpha_bar), np.sqrt(1 - trace.alpha_bar)
    given = a * xr.DataArray(image, dims=("channel", "latent_y", "latent_x")) + b * noise
    case.trace = trace.assign(latents=given.transpose(*trace.latents.dims))
    # The first latent, which the noise is taken from, has a little of the image as well.
    share = a - b / b[0] * a[0]
    found = decomposition(case).sel(part="image")
    np.testing.assert_allclose(found, np.stack([share] * 2), atol=1e-5)


def test_training_images_that_do_not_fit_are_refused(sd):
    with pytest.raises(InterpError, match="has none"):
        early_image(Case(sd, TEXTS[0], SEEDS))
    wrong = np.zeros((SIZE, 2 * SIZE, 3), dtype=np.uint8)
    with pytest.raises(InterpError, match="8 x 8 pixels"):
        early_image(Case(sd, TEXTS[0], SEEDS, training=wrong))
