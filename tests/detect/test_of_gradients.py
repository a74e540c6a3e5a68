"""Detectors that differentiate the UNet, against whole Jacobians by plain diffusers."""

import numpy as np
import pytest
import torch

import interp as ip
from interp.detect import Case, condition_jacobian, curvature, pull_back, sharpness
from tests.detect.plain import Plain, jacobian
from tests.runs import TEXTS, processor

SEEDS = (0, 5)


@pytest.fixture(params=["sd1", "sd2"])
def sd(request):
    """Latents of 4 x 4 pixels, whose Jacobian has 64 x 64 elements."""
    pipe = request.getfixturevalue(request.param)
    return ip.Session(pipe, steps=5, height=8, width=8)


@pytest.fixture
def plain(sd):
    return Plain(sd.pipe, TEXTS[0], size=4)


@pytest.fixture
def case(sd):
    return Case(sd, TEXTS[0], SEEDS)


def agrees(found, expected, rtol=2e-3):
    assert found.dims == ("seed",)
    assert found.seed.values.tolist() == list(SEEDS)
    np.testing.assert_allclose(found, expected, rtol=rtol)


def at_start(plain, formula):
    t = plain.timesteps(5)[0]
    return [formula(plain.noise(seed), t).item() for seed in SEEDS]


def test_sharpness_is_jeons(case, plain):
    def jeon(z, t):
        sigma = (1 - plain.abar(t)) ** 0.5
        scores = [lambda x, eps=eps: -eps(x, t) / sigma for eps in (plain.eps_c, plain.eps_u)]
        hessian = jacobian(scores[0], z) - jacobian(scores[1], z)
        return (hessian @ (scores[0](z) - scores[1](z)).flatten()).norm()

    expected = at_start(plain, jeon)
    agrees(sharpness(case), expected)
    agrees(sharpness(case, difference=0.05), expected, rtol=0.02)
    with processor(case.session.pipe, "eager"):
        agrees(sharpness(case), expected)


def test_pull_back_is_metric_2(case, plain):
    def metric(z, t):
        pulls = [jacobian(lambda x: eps(x, t), z).T @ eps(z, t).flatten()  # noqa: B023
                 for eps in (plain.eps_c, plain.eps_u)]  # fmt: skip
        return (pulls[0] - pulls[1]).square().sum()

    agrees(pull_back(case), at_start(plain, metric))


def test_condition_jacobian_is_the_slope_at_the_prompt(case, plain):
    def slope(z, t):
        def energy(way):
            return plain.eps(z, t, plain.u + way * (plain.c - plain.u)).flatten()

        way = torch.tensor(1.0, requires_grad=True)
        each = [torch.autograd.grad(one, way, retain_graph=True)[0] for one in energy(way)]
        return torch.stack(each).norm()

    expected = at_start(plain, slope)
    agrees(condition_jacobian(case), expected)
    agrees(condition_jacobian(case, difference=0.05), expected, rtol=0.02)


@pytest.mark.parametrize("detector", [sharpness, condition_jacobian])
def test_the_empty_prompt_has_none(sd, detector):
    assert float(abs(detector(Case(sd, "", [0]))).max()) == pytest.approx(0, abs=1e-5)


def test_sdxls_pooled_embeddings_are_there_too(sdxl):
    """Against finite differences of the session's own guidance at the first step."""
    sd = ip.Session(sdxl, steps=5, height=16, width=16)
    prompt, noise = sd.encode(TEXTS[0]), sd.noise(5)
    sdxl.scheduler.set_timesteps(5)
    abar = float(sdxl.scheduler.alphas_cumprod[sdxl.scheduler.timesteps[0]])
    with torch.no_grad():
        delta = sd.guidance_at_start(prompt, prompt.embeds, noise)
        step = 0.05 * delta / delta.norm()
        ends = [sd.guidance_at_start(prompt, prompt.embeds, noise + way * step) for way in (1, -1)]
        slope = (ends[0] - ends[1]).norm() / 0.1 * delta.norm() / (1 - abar)
    assert sharpness(Case(sd, prompt, [5])).item() == pytest.approx(slope.item(), rel=0.02)


def test_normal_densities_have_known_scores(sd1, monkeypatch):
    """A denoiser of centred normal densities, whose precision is affine in the embeddings."""
    sd = ip.Session(sd1, steps=5, height=8, width=8)
    z, prompt = sd.noise(5), sd.encode(TEXTS[0])
    sd1.scheduler.set_timesteps(5)
    first, last = (float(sd1.scheduler.alphas_cumprod[t]) for t in sd1.scheduler.timesteps[[0, -1]])
    sigma, length = (1 - first) ** 0.5, float(z.norm())
    # One element of the embeddings, in which the prompt is above the empty one.
    above = (prompt.embeds - sd.unconditional.embeds)[5].argmax()
    c, u = (3 + float(embeds[5, above]) for embeds in (prompt.embeds, sd.unconditional.embeds))

    def normal(latents, timestep, encoder_hidden_states, **_):
        noise = (1 - sd1.scheduler.alphas_cumprod[timestep.long()]) ** 0.5
        precision = 3 + encoder_hidden_states[:, 5, above]
        return (noise * precision[:, None, None, None] * latents,)

    monkeypatch.setattr(sd1.unet, "forward", normal)
    case = Case(sd, prompt, [5])
    assert sharpness(case).item() == pytest.approx((c - u) ** 2 * length, rel=1e-3)
    assert pull_back(case).item() == pytest.approx(
        sigma**4 * (c**2 - u**2) ** 2 * length**2, rel=1e-3
    )
    slope = sigma * abs(c - u) * length
    assert condition_jacobian(case).item() == pytest.approx(slope, rel=1e-3)
    # There is no attention that could be recorded.
    case.trace = sd.trace(prompt, [5], half=False)
    for probes in (1, 5):
        peak = 4 * (1 - last) ** 0.5 * (c - u)
        assert curvature(case, probes=probes).item() == pytest.approx(peak, rel=1e-3)
