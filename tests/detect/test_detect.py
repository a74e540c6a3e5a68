"""Detectors: each against its published definition, from what plain diffusers computes."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from torch.nn import functional

from interp import detect
from interp.errors import InterpError
from interp.record.recorders import entropy, maps, mass, token_mass
from interp.session import Session
from tests.runs import TEXTS, kernels

STEPS, SEEDS = 4, (0, 5)
DOWN = ("down.0.0", "down.1.0")
KINDS = ("sd1", "sd2")


@pytest.fixture(params=KINDS)
def sd(request, make_pipe):
    """Noise and velocity prediction; as many heads in every layer, and not."""
    return Session(make_pipe(request.param), steps=STEPS)


@pytest.fixture
def trace(sd):
    return sd.trace(TEXTS, SEEDS, record=detect.recorders(sd.pipe), half=False)


def official(pipe, text, seed, monkeypatch, steps=STEPS):
    """One image by plain diffusers: conditional and unconditional predictions, and attention.

    `attention[step][layer]` are the conditional row's probabilities [head, query, position], as the
    kernel used them; `end` is where the prompt's first end-of-text token stands.
    """
    outputs = []
    handle = pipe.unet.register_forward_hook(
        lambda module, args, kwargs, output: outputs.append((args[0], int(args[1]), output[0])),
        with_kwargs=True,
    )
    with kernels(pipe, monkeypatch) as seen:
        pipe(
            text,
            num_inference_steps=steps,
            guidance_scale=7.5,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        )
    handle.remove()
    layers = len(seen) // steps
    attention = [[p[1] for p in seen[i * layers : (i + 1) * layers]] for i in range(steps)]
    abar = [pipe.scheduler.alphas_cumprod[t].double() for _, t, _ in outputs]
    raw = [out.double().chunk(2) for _, _, out in outputs]
    if pipe.scheduler.config.prediction_type == "v_prediction":
        delta = [a.sqrt() * (c - u) for a, (u, c) in zip(abar, raw, strict=True)]
        z = [sample.double()[:1] for sample, _, _ in outputs]
        pairs = zip(abar, raw, z, strict=True)
        eps = [a.sqrt() * c + (1 - a).sqrt() * latent for a, (_, c), latent in pairs]
    else:
        delta, eps = [c - u for u, c in raw], [c for _, c in raw]
    end = len(pipe.tokenizer.encode(text)) - 1
    return SimpleNamespace(delta=delta, eps=eps, attention=attention, end=end)


@pytest.fixture
def references(sd, monkeypatch):
    """The official quantities of every image."""
    return [[official(sd.pipe, text, seed, monkeypatch) for seed in SEEDS] for text in TEXTS]


def agrees(scores, references, formula, rtol=2e-4):
    """Scores equal the formula of every image."""
    expected = np.array([[formula(image) for image in row] for row in references])
    values = scores.transpose("prompt", "seed", ...).values
    assert values.shape == expected.shape
    assert np.isfinite(values).all()
    assert expected.std() > 0
    np.testing.assert_allclose(values, expected, rtol=rtol)


def test_guidance_norm_is_wens(trace, references):
    def wen(image):
        return [float(delta.flatten().norm(p=2)) for delta in image.delta]

    agrees(detect.guidance_norm(trace), references, wen)
    agrees(detect.guidance_norm(trace, first=2), references, lambda i: np.mean(wen(i)[:2]))
    assert detect.guidance_norm(trace).step.values.tolist() == [0, 1, 2, 3]


def test_score_change_is_dsm(trace, references):
    def dsm(image):
        return [float((b - a).square().sum()) for a, b in zip(image.eps, image.eps[1:])]  # noqa: B905

    agrees(detect.score_change(trace), references, dsm)
    agrees(detect.score_change(trace, step=2), references, lambda image: dsm(image)[1])
    assert detect.score_change(trace).step.values.tolist() == [1, 2, 3]


def averaged(image, step):
    """Ren et al.'s attention over positions: mean over queries, then heads, then layers."""
    layers = [layer.double().mean(1).mean(0) for layer in image.attention[step]]
    return torch.stack(layers).mean(0)


def nats(attention):
    return float(-(attention * attention.log()).sum())


def test_attention_entropy_is_that_of_the_mean(trace, references):
    def per_step(image):
        return [nats(averaged(image, step)) for step in range(STEPS)]

    agrees(detect.attention_entropy(trace), references, per_step)


def test_early_entropy_is_rens_e(trace, references):
    def e(image, layer=1):
        return nats(image.attention[0][layer].double().mean((0, 1)))

    agrees(detect.early_entropy(trace), references, e)
    agrees(detect.early_entropy(trace, "mid.0"), references, lambda image: e(image, 2))


def test_late_entropy_is_rens_d(trace, references):
    def d(image, last):
        pads = [nats(averaged(image, step)[image.end :]) for step in range(STEPS)]
        whole = [nats(averaged(image, step)) for step in range(STEPS)]
        return np.mean(whole[-last:]) + np.mean(pads[-last:]) - pads[0]

    agrees(detect.late_entropy(trace, last=2), references, lambda image: d(image, 2))
    agrees(detect.late_entropy(trace), references, lambda image: d(image, 1))


def test_bright_ending_is_chens_ld(trace, references):
    def ld(image):
        mask = image.attention[-1][0].double().mean(0)[:, image.end].reshape(1, 16, 16)
        return [float((delta[0] * mask).norm() / mask.mean()) for delta in image.delta]

    agrees(detect.bright_ending(trace), references, ld)
    agrees(detect.bright_ending(trace, first=1), references, lambda image: ld(image)[0])


def test_bright_ending_resamples_coarser_maps(sd, references):
    """As where the finest layer with attention is coarser than the latents (SDXL)."""
    trace = sd.trace(TEXTS, SEEDS, record=maps(layers="down.1"), half=False)

    def ld(image):
        mask = image.attention[-1][1].mean(0)[:, image.end].reshape(1, 1, 8, 8)
        mask = functional.interpolate(mask, (16, 16), mode="bilinear")[0].double()
        return [float((delta[0] * mask).norm() / mask.mean()) for delta in image.delta]

    agrees(detect.bright_ending(trace), references, ld)


def test_bright_ending_takes_the_recorded_layers_of_the_finest_down_block(sd, trace):
    """Layers where only other variables were recorded, and coarser ones, do not count."""
    all_maps = sd.trace(TEXTS, SEEDS, record=(maps(size=16), mass), half=False)
    xr.testing.assert_allclose(detect.bright_ending(all_maps), detect.bright_ending(trace))


def test_a_batch_is_the_loop(sd, trace):
    """Every detector's score of an image does not depend on what was traced beside it."""
    together = detect.scores(trace)
    for prompt, text in enumerate(TEXTS):
        for seed in SEEDS:
            alone = sd.trace(text, [seed], record=detect.recorders(sd.pipe), half=False)
            for name, scores in detect.scores(alone).items():
                beside = together[name].isel(prompt=prompt).sel(seed=seed)
                np.testing.assert_allclose(scores.item(), beside.item(), rtol=1e-4)


def test_scores_are_the_detectors(trace):
    found = detect.scores(trace)
    assert list(found) == list(detect.DETECTORS)
    assert all(scores.dims == ("prompt", "seed") for scores in found.values())
    assert found.text.values.tolist() == list(TEXTS)
    wen = detect.guidance_norm(trace)
    np.testing.assert_allclose(found["guidance norm"], wen.mean("step"))
    np.testing.assert_allclose(found["guidance norm, first step"], wen.sel(step=0))


def test_a_scan_is_one_trace(sd):
    trace = sd.trace(TEXTS, SEEDS, record=detect.recorders(sd.pipe))
    scanned = detect.scan(sd, TEXTS, SEEDS)
    xr.testing.assert_allclose(scanned, detect.scores(trace), rtol=2e-3)
    assert scanned.text.values.tolist() == list(TEXTS)


def test_patches_keep_their_axis(sd):
    from interp.patch import zero

    patches = {"none": None, "zero": zero("pad")}
    both = sd.trace(TEXTS[0], SEEDS, patch=patches, record=detect.recorders(sd.pipe), half=False)
    found = detect.scores(both)
    one = detect.scores(
        sd.trace(TEXTS[0], SEEDS, patch=zero("pad"), record=detect.recorders(sd.pipe), half=False)
    )
    for name in found:
        assert found[name].dims == ("patch", "prompt", "seed")
        np.testing.assert_allclose(found[name].sel(patch="zero"), one[name], rtol=1e-4)


def test_half_precision_is_close(sd, trace):
    half = sd.trace(TEXTS, SEEDS, record=detect.recorders(sd.pipe))
    xr.testing.assert_allclose(detect.scores(half), detect.scores(trace), rtol=5e-3)


@pytest.mark.parametrize(
    ("record", "detector", "says"),
    [
        (mass, detect.early_entropy, "ip.token_mass"),
        (entropy, detect.late_entropy, "ip.token_mass"),
        (mass, detect.bright_ending, "ip.maps"),
        (maps(layers="up.1"), detect.bright_ending, "down.0"),
        (maps("position", layers="down.0"), detect.bright_ending, "kept by position"),
        (token_mass, lambda t: detect.early_entropy(t, "up.9"), "up.1.1"),
        (token_mass, lambda t: detect.late_entropy(t, last=2), "2 steps"),
        (mass, lambda t: detect.guidance_norm(t, first=3), "The trace has 2"),
        (mass, lambda t: detect.score_change(t, step=2), "2 steps"),
    ],
)
def test_what_is_missing_is_said(sd1, record, detector, says):
    trace = Session(sd1, steps=2).trace(TEXTS[0], record=record)
    with pytest.raises(InterpError, match=says):
        detector(trace)


def test_without_guidance_there_is_none(sd1):
    sd = Session(sd1, steps=2, guidance=1.0)
    with pytest.raises(InterpError, match="guidance above 1"):
        detect.guidance_norm(sd.trace(TEXTS[0]))
    with pytest.raises(InterpError, match=r"sd\.trace"):
        detect.score_change(sd.run(TEXTS[0], record=mass))
