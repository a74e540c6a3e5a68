"""Detectors that look at noise alone, against plain diffusers."""

import itertools

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

import interp as ip
from interp.attribute.likeness import ms_ssim, stretched
from interp.detect import Case, alignment, anisotropy, noise_likeness, one_step_distance
from interp.errors import InterpError
from tests.detect.plain import Plain
from tests.runs import TEXTS

SEEDS = (0, 5)


@pytest.fixture(params=["sd1", "sd2"])
def sd(request):
    return ip.Session(request.getfixturevalue(request.param), steps=5)


def test_one_step_distance_is_one_step_of_a_stock_sampler(sd):
    """An Euler step in k-diffusion's coordinates, by diffusers' own sampler of that kind."""
    parts = dict(sd.pipe.components)
    parts["scheduler"] = EulerDiscreteScheduler.from_config(
        parts["scheduler"].config, timestep_spacing="trailing"
    )
    pipe = type(sd.pipe)(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    expected = []
    for seed in SEEDS:
        end = pipe(
            TEXTS[0],
            num_inference_steps=1,
            guidance_scale=7.5,
            generator=torch.Generator().manual_seed(seed),
            output_type="latent",
        ).images
        start = sd.noise(seed) * pipe.scheduler.init_noise_sigma
        expected.append(float((end - start).square().mean()))
    found = one_step_distance(Case(sd, TEXTS[0], SEEDS))
    # The sampler's noise is 0.9999 of what has variance 1 beside an image.
    np.testing.assert_allclose(found, expected, rtol=5e-3)
    assert found.dims == ("seed",)


def test_noise_likeness_is_the_most_alike_pair(sd):
    seeds = (0, 5, 9)
    plain = Plain(sd.pipe, TEXTS[0])
    t = plain.timesteps(5)[1]
    with torch.no_grad():
        maps = [stretched(plain.eps_c(plain.noise(s), t) - plain.noise(s)) for s in seeds]
    pairs = list(itertools.combinations(maps, 2))
    first, second = (torch.cat([pair[n] for pair in pairs]) for n in (0, 1))
    found = noise_likeness(Case(sd, TEXTS[0], seeds))
    assert found > 0
    assert found.item() == pytest.approx(float(ms_ssim(first, second).max()), abs=1e-4)


def test_anisotropy_is_a_norm_and_a_cosine_on_the_same_noise(sd):
    plain = Plain(sd.pipe, TEXTS[0])
    first, *_, third_last, _, _ = plain.timesteps(5)
    lengths, cosines = [], []
    with torch.no_grad():
        for z in map(plain.noise, SEEDS):
            lengths.append(plain.delta(z, first).flatten().norm().item())
            u, delta = plain.eps_u(z, third_last)[0], plain.delta(z, third_last)[0]
            cosine = (u * delta).sum(0) / (u.norm(dim=0) * delta.norm(dim=0))
            cosines.append(cosine.mean().item())
    case = Case(sd, TEXTS[0], SEEDS)
    np.testing.assert_allclose(alignment(case), cosines, rtol=1e-3, atol=1e-5)
    expected = np.array(lengths) + 2 * np.array(cosines)
    np.testing.assert_allclose(anisotropy(case), expected, rtol=1e-3)
    np.testing.assert_allclose(anisotropy(case, (0.5, 0.0)), 0.5 * np.array(lengths), rtol=1e-3)
    with pytest.raises(InterpError, match="has 5 steps"):
        anisotropy(case, step=-6)
