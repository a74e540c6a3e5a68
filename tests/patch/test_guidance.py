"""Guides against own denoising loops on the stock UNet and scheduler."""

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler

import interp as ip
from interp.errors import InterpError
from tests.runs import TEXTS, from_embeds, latents

STEPS = 5


def loop(pipe, text, combine, guidance=7.5, seed=0):
    """Denoising by hand: `combine(step, eps_u, eps_c, history of norms)` makes the prediction."""
    (prompt,), (empty,) = ip.encode(pipe, [text]), ip.encode(pipe, [""])
    scheduler = pipe.scheduler
    scheduler.set_timesteps(STEPS)
    shape = (1, pipe.unet.config.in_channels, *2 * [pipe.unet.config.sample_size])
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    z = z * scheduler.init_noise_sigma
    embeds = torch.stack([empty.embeds, prompt.embeds])
    norms = []
    for step, t in enumerate(scheduler.timesteps):
        given = scheduler.scale_model_input(torch.cat([z, z]), t)
        with torch.no_grad():
            u, c = pipe.unet(given, t, encoder_hidden_states=embeds).sample.chunk(2)
        signal = 1.0
        if scheduler.config.prediction_type == "v_prediction":
            signal = float(scheduler.alphas_cumprod[int(t)]) ** 0.5
        norms.append(signal * float((c - u).norm()))
        z = scheduler.step(combine(step, u, c, norms), t, z).prev_sample
    return z


def mix(u, c, weight):
    return u + weight * (c - u)


def first_minimum_passed(norms):
    return any(a > b < c for a, b, c in zip(norms, norms[1:], norms[2:], strict=False))


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
@pytest.mark.parametrize("weight", [0.0, 1.0, -2.0, 3.0])
def test_a_schedule_is_the_hand_made_loop(kind, weight, request):
    pipe = request.getfixturevalue(kind)
    with ip.guide(weight, steps=slice(0, 3)).on(pipe):
        patched = latents(pipe, TEXTS[0], STEPS)
    by_hand = loop(pipe, TEXTS[0], lambda n, u, c, _: mix(u, c, weight if n < 3 else 7.5))
    torch.testing.assert_close(patched, by_hand, atol=1e-5, rtol=1e-5)


def test_a_sigma_scheduler_too(sd1, monkeypatch):
    euler = EulerDiscreteScheduler.from_config(sd1.scheduler.config)
    monkeypatch.setattr(sd1, "scheduler", euler)
    with ip.guide(-1, steps=[0, 1]).on(sd1):
        patched = latents(sd1, TEXTS[0], STEPS)
    by_hand = loop(sd1, TEXTS[0], lambda n, u, c, _: mix(u, c, -1 if n < 2 else 7.5))
    torch.testing.assert_close(patched, by_hand, atol=1e-4, rtol=1e-4)


def test_the_same_weight_everywhere_is_the_pipelines_own_guidance(pipe):
    with ip.guide(3).on(pipe):
        patched = latents(pipe, TEXTS, STEPS)
    assert torch.equal(patched, latents(pipe, TEXTS, STEPS, guidance_scale=3.0))


def uneven(pipe):
    """Make the denoiser's norms fall and rise, for each text at steps of its own."""
    first = ip.encode(pipe, [TEXTS[0]])[0].embeds
    pipe.scheduler.set_timesteps(STEPS)
    step_of = {int(t): step for step, t in enumerate(pipe.scheduler.timesteps)}

    def scaled(module, args, kwargs, output):
        u, c = output[0].chunk(2)
        factors = []
        for text in kwargs["encoder_hidden_states"].chunk(2)[1]:
            table = (1, 0.1, 2, 0.3, 2) if torch.equal(text, first) else (3, 2, 0.1, 2, 1)
            factors.append(table[step_of[int(args[1])]])
        c = u + torch.tensor(factors)[:, None, None, None] * (c - u)
        mixed = torch.cat([u, c])
        return (mixed,) if isinstance(output, tuple) else type(output)(sample=mixed)

    return pipe.unet.register_forward_hook(scaled, with_kwargs=True)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_until_the_minimum_follows_the_norm_of_each_image(kind, request):
    pipe = request.getfixturevalue(kind)
    switched = {}

    def combine(step, u, c, norms):
        switched[text].append(first_minimum_passed(norms))
        return mix(u, c, 7.5 if switched[text][-1] else 0)

    handle = uneven(pipe)
    try:
        with ip.guide(0, until="minimum").on(pipe):
            together = pipe(
                list(TEXTS),
                num_inference_steps=STEPS,
                generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
                output_type="latent",
            ).images
            again = latents(pipe, TEXTS[0], STEPS)
        for seed, text in enumerate(TEXTS):
            switched[text] = []
            by_hand = loop(pipe, text, combine, seed=seed)
            torch.testing.assert_close(together[[seed]], by_hand, atol=1e-4, rtol=1e-4)
    finally:
        handle.remove()
    torch.testing.assert_close(again, together[:1], atol=1e-4, rtol=1e-4)
    assert switched[TEXTS[0]] == [False, False, True, True, True]
    assert switched[TEXTS[1]] == [False, False, False, True, True]


def test_images_of_one_batch_have_guides_of_their_own(sd1):
    a, b = ip.encode(sd1, list(TEXTS))
    (empty,) = ip.encode(sd1, [""])

    def run(patches):
        with ip.apply(sd1, [(a, patches[0]), (b, patches[1])], negative=empty):
            return from_embeds(sd1, [a.embeds, b.embeds], [a, b], empty)

    mixed = run([ip.guide(0), None])
    torch.testing.assert_close(mixed[0], run([ip.guide(0), ip.guide(0)])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        mixed[1], from_embeds(sd1, [a.embeds, b.embeds], [a, b], empty)[1], atol=1e-5, rtol=1e-5
    )


def test_it_composes_with_edits_and_the_last_guide_counts(sd1):
    with (ip.zero("pad") & ip.guide(0, steps=0) & ip.guide(2)).on(sd1):
        both = latents(sd1, TEXTS[0], STEPS)
    with ip.zero("pad").on(sd1):
        assert torch.equal(both, latents(sd1, TEXTS[0], STEPS, guidance_scale=2.0))
    with ip.zero("pad").on(sd1), ip.guide(2).on(sd1):
        assert torch.equal(both, latents(sd1, TEXTS[0], STEPS))


def test_a_trace_has_the_predictions_and_not_the_mixture(sd1):
    sd = ip.Session(sd1, steps=2)
    plain = sd.trace(TEXTS[0], half=False)
    guided = sd.trace(TEXTS[0], patch=ip.guide(0), half=False)
    first = {"step": 0}
    for name in ("eps_c", "eps_u"):
        assert np.array_equal(plain[name].isel(first), guided[name].isel(first))
    assert not np.array_equal(plain.latents.isel(step=1), guided.latents.isel(step=1))


def test_it_is_a_value():
    patch = ip.guide(0, steps=slice(0, 25)) & ip.guide(1, until="minimum")
    assert repr(patch) == "guide(0, steps=0:25) & guide(1, until='minimum')"
    assert ip.Patch.from_json(patch.to_json()) == patch
    assert not patch.edits_embeddings


def test_what_can_not_be_is_refused(sd1):
    with pytest.raises(InterpError, match="finite number"):
        ip.guide(float("nan"))
    with pytest.raises(InterpError, match="without guidance"), ip.guide(0).on(sd1):
        latents(sd1, TEXTS[0], guidance_scale=1.0)
    with pytest.raises(InterpError, match="touched nothing"), ip.guide(0, steps=9).on(sd1):
        latents(sd1, TEXTS[0])
    with (
        pytest.raises(InterpError, match="every step"),
        ip.guide(0, until="minimum", steps=slice(1, 5)).on(sd1),
    ):
        latents(sd1, TEXTS[0])


def test_a_sweep_takes_it(sd1, tmp_path):
    sd = ip.Session(sd1, steps=2)
    grid = ip.sweep(
        sd, [TEXTS[0]], {"stp": ip.guide(0, steps=0)}, 1, store=tmp_path / "s.zarr", images=True
    )
    direct = sd.run(TEXTS[0], patch=ip.guide(0, steps=0))
    swept = grid.image.sel(patch="stp").transpose("prompt", "seed", ...).values.astype(int)
    # Beside the unpatched image a last bit may differ, and with it a pixel by one level.
    np.testing.assert_allclose(swept, direct.image.transpose("prompt", "seed", ...), atol=1)


def repelled(pipe, text, embeds, donor, strength, seed=0):
    """Three predictions by hand: away from the donor's by `strength(step, norm)`."""
    (prompt,), (empty,) = ip.encode(pipe, [text]), ip.encode(pipe, [""])
    scheduler = pipe.scheduler
    scheduler.set_timesteps(STEPS)
    shape = (1, pipe.unet.config.in_channels, *2 * [pipe.unet.config.sample_size])
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    z = z * scheduler.init_noise_sigma
    text = torch.stack([empty.embeds, embeds(prompt), prompt.embeds if donor is None else donor])
    for step, t in enumerate(scheduler.timesteps):
        given = scheduler.scale_model_input(torch.cat([z, z, z]), t)
        with torch.no_grad():
            u, c, other = pipe.unet(given, t, encoder_hidden_states=text).sample.chunk(3)
        signal = 1.0
        if scheduler.config.prediction_type == "v_prediction":
            signal = float(scheduler.alphas_cumprod[int(t)]) ** 0.5
        weight = strength(step, signal * float((c - u).norm()))
        z = scheduler.step(u + 7.5 * (c - u) - weight * (other - u), t, z).prev_sample
    return z


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_repelling_is_a_third_row_by_hand(kind, request):
    """Away from the prompt's own unpatched prediction (GUARD's guidance), fading."""
    pipe = request.getfixturevalue(kind)
    with (ip.zero("pad") & ip.repel(2, fading=True)).on(pipe):
        patched = latents(pipe, TEXTS[0], STEPS)
    fade = lambda step, norm: 2 * np.cos(np.pi * step / (2 * STEPS))  # noqa: E731
    by_hand = repelled(pipe, TEXTS[0], ip.zero("pad").embeds, None, fade)
    torch.testing.assert_close(patched, by_hand, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_repelling_grows_with_the_norm_for_each_image_of_a_batch(kind, request):
    """PRSS in its authors' terms: eps_o + s (eps_m - eps_o) + (w - s) (eps_m - eps_u)."""
    pipe = request.getfixturevalue(kind)
    first, second = ip.encode(pipe, list(TEXTS))
    norms = []
    loop(pipe, TEXTS[0], lambda n, u, c, known: (norms.append(known[-1]), mix(u, c, 7.5))[1])
    low, high = 0.5 * min(norms), 1.5 * max(norms)
    away = ip.repel(6.5, second, between=(low, high))
    with ip.apply(pipe, [(first, away), (second, None)]):
        both = pipe(
            prompt_embeds=torch.stack([first.embeds, second.embeds]),
            num_inference_steps=STEPS,
            generator=[torch.Generator().manual_seed(seed) for seed in (0, 1)],
            output_type="latent",
        ).images
    strengths = []

    def published(step, norm):
        s = 7.5 if norm >= high else 1 + (norm - low) / (high - low) * 6.5
        strengths.append(s - 1)
        return s - 1

    by_hand = repelled(pipe, TEXTS[0], lambda p: p.embeds, second.embeds, published)
    torch.testing.assert_close(both[:1], by_hand, atol=1e-4, rtol=1e-4)
    assert 0 < min(strengths) < max(strengths) < 6.5
    plain = loop(pipe, TEXTS[1], lambda n, u, c, _: mix(u, c, 7.5), seed=1)
    torch.testing.assert_close(both[1:], plain, atol=1e-4, rtol=1e-4)


def test_the_third_prediction_is_neither_recorded_nor_counted_nor_patched(sd1):
    sd = ip.Session(sd1, steps=STEPS)
    patch = ip.mask("pad") & ip.repel(0.5, sd.encode(TEXTS[1]))
    found = sd.run(TEXTS[0], [0], patch, record=ip.mass)
    assert found.sizes["step"] == STEPS
    assert float(abs(found.mass.sel(category="pad")).max()) == 0
    np.testing.assert_allclose(found.mass.sum("category"), 1, atol=1e-5)
    again = ip.Patch.from_json(patch.to_json(), pipe=sd1)
    assert again == patch
    # Below the norms that it acts between it changes nothing, and that is no mistake.
    quiet = sd.run(TEXTS[0], [0], ip.repel(3, between=(1e6, 2e6)))
    assert np.array_equal(quiet.image, sd.run(TEXTS[0], [0]).image)
    with pytest.raises(InterpError, match="two norms"):
        ip.repel(1, between=(3, 2))


@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_repelling_from_the_prompt_itself_is_less_guidance(kind, request):
    """Also where a pooled embedding goes with the prompt."""
    pipe = request.getfixturevalue(kind)
    (own,) = ip.encode(pipe, [TEXTS[0]])
    with ip.guide(5.5).on(pipe):
        less = latents(pipe, TEXTS[0], 2, guidance_scale=7.5)
    for donor in (None, own):
        with ip.repel(2, donor).on(pipe):
            away = latents(pipe, TEXTS[0], 2, guidance_scale=7.5)
        torch.testing.assert_close(away, less, atol=1e-3, rtol=1e-3)
