"""Mitigations of the initial noise, against the same loops in plain torch on the stock UNet."""

import numpy as np
import pytest
import torch

import interp as ip
from interp.errors import InterpError
from tests.runs import TEXTS

STEPS = 3


@pytest.fixture(params=["sd1", "sd2"])
def sd(request):
    return ip.Session(request.getfixturevalue(request.param), steps=STEPS)


def difference(pipe, prompt, empty):
    """`eps_c - eps_u` at the first step as a function of unit noise, by hand."""
    scheduler = pipe.scheduler
    scheduler.set_timesteps(STEPS)
    t = scheduler.timesteps[0]
    signal = 1.0
    if scheduler.config.prediction_type == "v_prediction":
        signal = float(scheduler.alphas_cumprod[int(t)]) ** 0.5
    embeds = torch.stack([empty.embeds, prompt.embeds])

    def at(noise):
        u, c = pipe.unet(torch.cat([noise, noise]), t, encoder_hidden_states=embeds).sample.chunk(2)
        return signal * (c - u)

    return at


def by_seed(sd, mitigation, seeds):
    """The noise that a mitigation starts from, and the functions to check it with."""
    prompt, empty = sd.encode([TEXTS[0], ""])
    start = mitigation.rewrite(sd, prompt, seeds)
    assert start.prompt is prompt
    return start, difference(sd.pipe, prompt, empty)


def test_adjusted_noise_is_the_published_iteration(sd):
    start, g = by_seed(sd, ip.mitigations.adjust_noise(2, 0.7, 50.0, 5), [3, 4])
    assert start.patch == ip.guide(0, steps=slice(0, 5))
    for seed, found in zip((3, 4), start.latents, strict=True):
        x = sd.noise(seed)
        unit = (4 * 64 * 64 / x.numel()) ** 0.5
        with torch.no_grad():
            for _ in range(2):
                here = g(x)
                x = x - 0.7 * (g(x + 50 / unit * here / here.norm()) - here)
        torch.testing.assert_close(found[None], x, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(found[None], sd.noise(seed), atol=1e-3)


def adam(loss, x, rate, iterations):
    """Adam by its formulas, and what the loss was before each step."""
    m, v, values = torch.zeros_like(x), torch.zeros_like(x), []
    for n in range(1, iterations + 1):
        x = x.detach().requires_grad_()
        value = loss(x)
        (gradient,) = torch.autograd.grad(value, x)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        step = (m / (1 - 0.9**n)) / ((v / (1 - 0.999**n)).sqrt() + 1e-8)
        x = x - rate * step
        values.append(value.item())
    return x.detach(), values


def test_optimised_noise_is_adam_on_the_norm(sd):
    start, g = by_seed(sd, ip.mitigations.optimise_noise(0.0, 0.01, 3), [5])
    unit = (4 * 64 * 64 / start.latents[0].numel()) ** 0.5
    by_hand, values = adam(lambda x: g(x).norm() * unit, sd.noise(5), 0.01, 3)
    torch.testing.assert_close(start.latents, by_hand, atol=1e-4, rtol=1e-4)
    assert values[0] > values[-1], "it should fall"


def test_sharpness_aware_noise_is_adam_on_the_norm_one_step_further(sd):
    start, g = by_seed(sd, ip.mitigations.sharpness_aware_noise(0.0, 0.05, 0.05, 3), [6])
    unit = (4 * 64 * 64 / start.latents[0].numel()) ** 0.5

    def loss(x):
        with torch.no_grad():
            here = g(x)
        return g(x + here / here.norm() / unit).norm() * unit + 0.05 * x.norm() * unit

    by_hand, _ = adam(loss, sd.noise(6), 0.05, 3)
    torch.testing.assert_close(start.latents, by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "make", [ip.mitigations.optimise_noise, ip.mitigations.sharpness_aware_noise]
)
def test_what_is_below_its_target_is_left_alone(sd, make):
    start, _ = by_seed(sd, make(target=1e6), [0, 1])
    assert torch.equal(start.latents, torch.cat([sd.noise(0), sd.noise(1)]))


def test_settings_that_can_not_be_are_refused():
    with pytest.raises(InterpError, match="radius is a finite number"):
        ip.mitigations.adjust_noise(radius=float("nan"))
    with pytest.raises(InterpError, match="iterations"):
        ip.mitigations.optimise_noise(iterations=-1)


def test_given_latents_are_the_pipelines_own(sd):
    """`run(latents=)` is stock diffusers with `latents=`, and a seed's own changes nothing."""
    noise = torch.cat([sd.noise(seed) for seed in (7, 8)])
    given = sd.run(TEXTS[0], seeds=2, latents=noise).image
    assert np.array_equal(given, sd.run(TEXTS[0], seeds=[7, 8]).image)
    stock = sd.pipe(TEXTS[0], latents=noise[:1], num_inference_steps=STEPS, output_type="np").images
    alone = sd.run(TEXTS[0], latents=noise[:1]).image.isel(prompt=0, seed=0)
    assert np.array_equal(
        alone.transpose("pixel_y", "pixel_x", "rgb"), (stock[0] * 255).round().astype("uint8")
    )


def test_latents_may_differ_by_prompt_and_stand_in_provenance(sd):
    each = torch.stack([sd.noise(1), sd.noise(2)])
    run = sd.run(list(TEXTS), latents=each)
    for n, text in enumerate(TEXTS):
        alone = sd.run(text, seeds=[n + 1]).image[0]
        # Beside another image a last bit may differ, and with it a pixel by one level.
        np.testing.assert_allclose(run.image[n].astype(int), alone.astype(int), atol=1)
    said = ip.provenance(run)["latents"]
    assert said != ip.provenance(sd.run(list(TEXTS), latents=each + 1))["latents"]
    with pytest.raises(InterpError, match="latents of shape"):
        sd.run(list(TEXTS), seeds=3, latents=each)
    with pytest.raises(InterpError, match="with latents="):
        sd.run(TEXTS[0], patch=ip.mitigations.adjust_noise(), latents=sd.noise(0))


def test_a_patched_clean_trajectory_starts_from_given_latents_too(sd):
    noise = sd.noise(9)
    patch = ip.zero("pad")
    given = sd.trace(TEXTS[0], patch=patch, trajectory="clean", latents=noise, half=False)
    seeded = sd.trace(TEXTS[0], seeds=[9], patch=patch, trajectory="clean", half=False)
    assert np.array_equal(given.eps_c, seeded.eps_c)
