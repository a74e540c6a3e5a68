"""Sessions on SD 3, FLUX and PixArt: what they run is what the stock pipeline runs."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    StableDiffusion3Img2ImgPipeline,
)

import interp as ip
from interp import results
from interp.attribute.points import points_of, predict
from interp.denoiser.unet_call import calls_per_run, first_step
from interp.transformer.family import calls
from tests.transformers import LENGTH, TEXTS, call, given, prompts, session, shared

ALL = ("sot", "prompt", "eot", "pad")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(images: np.ndarray) -> np.ndarray:
    return (images * 255).round().astype(np.uint8)


def test_images_are_those_of_the_stock_pipeline_bit_for_bit(pipe):
    sd = session(pipe)
    ours = sd.run(TEXTS[:2], seeds=[7], images=True).image
    for number, text in enumerate(TEXTS[:2]):
        more = {"guidance_scale": sd.guidance, "output_type": "np", "generator": seeded(7)}
        plain = call(pipe, text, **more)
        alone = sd.run(text, seeds=[7]).image
        assert np.array_equal(alone[0, 0], pixels(plain)[0])
        assert abs(ours[number, 0].astype(int) - pixels(plain)[0].astype(int)).max() <= 1


def test_a_patched_image_is_that_of_hand_edited_embeddings(family):
    pipe = family
    a, b, _ = prompts(pipe)
    sd = session(pipe)
    for patch in (ip.zero("prompt"), ip.swap("eot", donor=b)):
        more = {"guidance_scale": sd.guidance, "output_type": "np", "generator": seeded(0)}
        hand = given(pipe, a, patch.embeds(a), **more)
        assert np.array_equal(sd.run(a, patch=patch).image[0, 0], pixels(hand)[0])


def test_given_latents_are_those_of_the_stock_pipeline(family):
    pipe = family
    sd = session(pipe)
    noise = sd.noise(3)
    run = sd.trace(TEXTS[0], seeds=[0], latents=noise, half=False)
    own = sd.trace(TEXTS[0], seeds=[3], half=False)
    assert np.array_equal(run.final_latents, own.final_latents)
    packed = pipe._pack_latents(noise, *noise.shape) if "Flux" in type(pipe).__name__ else noise
    plain = call(pipe, TEXTS[0], guidance_scale=sd.guidance, latents=packed)
    if "Flux" in type(pipe).__name__:
        plain = pipe._unpack_latents(plain, sd.height, sd.width, pipe.vae_scale_factor)
    assert np.array_equal(own.final_latents[0, 0], plain[0])


def test_a_batch_of_patches_is_the_loop_over_them(family):
    pipe = family
    _, b, _ = prompts(pipe)
    sd = session(pipe)
    patches = {
        "none": None,
        "zero": ip.zero("prompt"),
        "stream": ip.swap(ALL, donor=b, align="nearest", layers=1),
        "mask": ip.mask("prompt"),
    }
    together = sd.trace(TEXTS[:2], seeds=[0, 5], patch=patches, half=False, record=ip.mass)
    for name, patch in patches.items():
        alone = sd.trace(TEXTS[1], seeds=[5], patch=patch, half=False, record=ip.mass)
        beside = together.sel(patch=name, seed=[5]).isel(prompt=[1])
        for variable in ("final_latents", "eps_c", "mass"):
            np.testing.assert_allclose(beside[variable], alone[variable], atol=1e-4)


def predictions(pipe: Any, text: str, **more: Any) -> list[tuple[Any, Any]]:
    """What the transformer of a plain call was given, and what it returned."""
    seen = []
    handle = pipe.transformer.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(
            ((args or (kwargs["hidden_states"],))[0], output[0])
        ),
        with_kwargs=True,
    )
    try:
        call(pipe, text, **more)
    finally:
        handle.remove()
    return seen


def images(pipe: Any, values: torch.Tensor) -> torch.Tensor:
    """Predictions without variances, as images."""
    if "Flux" in type(pipe).__name__:
        return pipe._unpack_latents(values, 32, 32, pipe.vae_scale_factor)
    return values[:, : pipe.transformer.config.in_channels]


def test_a_trace_is_the_noise_that_velocities_imply(family):
    pipe = family
    sd = session(pipe)
    trace = sd.trace(TEXTS[0], half=False).isel(prompt=0, seed=0)
    seen = predictions(pipe, TEXTS[0], guidance_scale=sd.guidance)
    flow = "PixArt" not in type(pipe).__name__
    for step, (z, output) in enumerate(seen):
        z, output = images(pipe, z), images(pipe, output)
        t = float(pipe.scheduler.timesteps[step])
        assert float(trace.timestep[step]) == t
        eps = z + (1 - t / 1000) * output if flow else output
        np.testing.assert_allclose(trace.latents[step], z[-1], atol=1e-6)
        np.testing.assert_allclose(trace.eps_c[step], eps[-1], atol=1e-5)
        if len(eps) > 1:
            np.testing.assert_allclose(trace.eps_u[step], eps[0], atol=1e-5)
    assert ("eps_u" in trace) == (len(seen[0][1]) > 1) == sd.guided


def test_true_guidance_makes_unconditional_rows():
    pipe = shared("dev")
    sd = session(pipe, true_cfg_scale=4.0, negative=TEXTS[1])
    assert sd.guided
    assert sd.uncond_policy == repr(TEXTS[1])
    more = {"true_cfg_scale": 4.0, "negative_prompt": TEXTS[1], "guidance_scale": sd.guidance}
    plain = call(pipe, TEXTS[0], **more, output_type="np", generator=seeded(0))
    assert np.array_equal(sd.run(TEXTS[0]).image[0, 0], pixels(plain)[0])
    trace = sd.trace(TEXTS[0], half=False).isel(prompt=0, seed=0)
    seen = predictions(pipe, TEXTS[0], **more)
    for step in range(2):
        t = float(trace.timestep[step]) / 1000
        for number, name in enumerate(("eps_c", "eps_u")):
            z, v = seen[2 * step + number]
            eps = images(pipe, z + (1 - t) * v)
            np.testing.assert_allclose(trace[name][step], eps[0], atol=1e-5)
    assert not sd.but(true_cfg_scale=1.0).guided


def test_what_is_recorded_is_what_is_recorded_outside(family):
    pipe = family
    sd = session(pipe)
    run = sd.run(TEXTS[:2], seeds=[0], record=(ip.mass, ip.token_mass))
    with ip.record(pipe, ip.mass, ip.token_mass) as log:
        call(pipe, TEXTS[1], guidance_scale=sd.guidance)
    alone = log.dataset()
    assert list(run.category.values) == list(alone.category.values) == [*ALL, "image"]
    assert run.tokens.isel(prompt=1).values.tolist() == alone.tokens[0].values.tolist()
    for name in ("mass", "token_mass"):
        np.testing.assert_allclose(run[name][1, 0], alone[name][0, 0], atol=1e-5)


def test_one_prediction_is_that_of_the_run(family):
    pipe = family
    """The transformer called directly, at every step of a run."""
    more = {"true_cfg_scale": 2.0} if "Flux" in type(pipe).__name__ else {}
    sd = session(pipe, **more)
    a = sd.encode(TEXTS[0])
    trace = sd.trace(a, half=False).isel(prompt=0)
    points = points_of(sd, a, trace, [0, 1])
    with torch.no_grad():
        found = predict(sd, points, a.embeds)
    np.testing.assert_allclose(found, points.eps_c, atol=1e-5)


def test_the_clean_trajectory_gives_all_runs_the_latents_of_the_unpatched(family):
    pipe = family
    sd = session(pipe)
    both = sd.trace(
        TEXTS[0], patch={"none": None, "zero": ip.zero("prompt")}, half=False, trajectory="clean"
    )
    plain = sd.trace(TEXTS[0], half=False)
    for name in ("none", "zero"):
        np.testing.assert_allclose(both.latents.sel(patch=name), plain.latents, atol=1e-5)
    assert not np.allclose(both.eps_c[0], both.eps_c[1], atol=1e-3)


def test_settings_are_written_down(family):
    pipe = family
    sd = session(pipe)
    written = results.provenance(sd.run(TEXTS[0], seeds=[1], patch=ip.zero("eot")))
    assert written["pipeline"] == type(pipe).__name__
    assert written["call"]["max_sequence_length"] == LENGTH
    assert written["uncond"] == ("none" if "Flux" in type(pipe).__name__ else "''")
    assert {"transformer", "vae", "text_encoder"} <= set(written["model"]["parts"])
    assert sd.but(steps=3).steps == 3
    assert sd.but(guidance=2.0).call == sd.call
    assert type(pipe.scheduler).__name__ in repr(sd)
    assert sd.encode(TEXTS[0]) == prompts(pipe)[0]


def test_samplers_of_two_calls_a_step():
    pipe = shared("sd3")
    before = pipe.scheduler
    pipe.scheduler = FlowMatchHeunDiscreteScheduler(shift=3.0)
    try:
        sd = session(pipe)
        trace = sd.trace(TEXTS[0], half=False, images=True)
        plain = call(pipe, TEXTS[0], guidance_scale=sd.guidance, output_type="np")
    finally:
        pipe.scheduler = before
    assert trace.sizes["step"] == 3
    assert np.array_equal(trace.image[0, 0], pixels(plain)[0])


@pytest.mark.parametrize("kind", ["sd3", "dev"])
def test_shifted_schedules_are_those_of_the_pipeline(kind):
    """As they are worked out for single predictions, without a run."""
    pipe = shared(kind)
    before = pipe.scheduler
    shifted = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.1)
    pipe.scheduler = shifted
    try:
        assert calls_per_run(pipe, 3) == 3
        latents, timestep, _ = first_step(pipe, [0], 3, 32, 32)
        trace = session(pipe, steps=3).trace(TEXTS[0], half=False)
    finally:
        pipe.scheduler = before
    assert np.array_equal(trace.latents[0, 0, 0], latents[0])
    own = FlowMatchEulerDiscreteScheduler.from_config(shifted.config)
    calls(pipe).schedule(own, 3, tokens=64)
    assert torch.equal(own.timesteps, shifted.timesteps)
    assert float(timestep) == float(own.timesteps[0])
    assert trace.timestep.values.tolist() == own.timesteps.tolist()


def test_what_is_not_text_to_image_is_refused_by_name():
    pipe = shared("sd3")
    with pytest.raises(ip.InterpError, match="StableDiffusion3Img2ImgPipeline"):
        ip.Session(StableDiffusion3Img2ImgPipeline(**pipe.components))
    with pytest.raises(ip.InterpError, match="multiples of 4"):
        session(pipe, height=30)
    with pytest.raises(ip.InterpError, match="2 with this pipeline"):
        session(shared("pixart"), steps=1)
    with pytest.raises(ip.InterpError, match="height= and width="):
        session(shared("pixart"), use_resolution_binning=True)
    with pytest.raises(ip.InterpError, match="true_cfg_scale"):
        ip.attribute.causal_trace(session(shared("dev")), TEXTS[0], ip.zero("eot"))
