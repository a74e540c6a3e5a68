"""Recordings: labels, runs and rows."""

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0

import interp as ip
from interp import InterpError, encode, entropy, mass, record, sites, token_mass
from interp.results.axes import DIMS
from tests.pipelines import pipeline
from tests.runs import TEXTS, from_embeds, latents, recorded


def test_axes_and_coordinates(pipe) -> None:
    data = recorded(pipe, steps=3, num_images_per_prompt=2)
    layers = sites(pipe.unet)
    prompts = encode(pipe, TEXTS)
    assert data.mass.dims == data.mass_uncond.dims == DIMS
    assert data.mass.dtype == np.float32
    assert dict(data.sizes) == {
        "prompt": 2,
        "seed": 2,
        "step": 3,
        "layer": len(layers),
        "head": max(site.heads for site in layers),
        "category": 4,
    }
    assert data.layer.values.tolist() == [site.name for site in layers]
    assert data.block.values.tolist() == [site.block for site in layers]
    assert data.n_heads.values.tolist() == [site.heads for site in layers]
    assert data.resolution.values[0] == "16x16"
    assert data.resolution.sel(layer="mid.0") == "8x8"
    assert data.timestep.values.tolist() == pipe.scheduler.timesteps.tolist()
    assert data.tokens.values.tolist() == [list(p.counts.values()) for p in prompts]
    assert data.tokens_uncond.values.tolist() == [[1, 0, 1, 75]] * 2
    assert data.text.values.tolist()[0] == TEXTS[0]


def test_absent_heads_are_nan_and_present_ones_are_not(sd2) -> None:
    data = recorded(sd2, mass, entropy)
    present = data["head"] < data.n_heads
    assert not present.all()
    for name in ("mass", "mass_uncond", "entropy"):
        assert bool((data[name].notnull() == present).all())


def test_without_guidance_there_is_no_unconditional_variable(pipe) -> None:
    data = recorded(pipe, guidance_scale=1.0)
    assert list(data.data_vars) == ["mass"]
    assert "tokens_uncond" not in data.coords


def test_unconditional_rows_can_be_left_out(pipe) -> None:
    whole, half = recorded(pipe), recorded(pipe, log={"uncond": False})
    assert list(half.data_vars) == ["mass"]
    np.testing.assert_allclose(half.mass, whole.mass, atol=1e-6)


def test_rows_land_at_their_prompt_and_image(pipe) -> None:
    """A batch of prompts and images equals single calls."""
    noise = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    batch = recorded(pipe, num_images_per_prompt=2, latents=noise)
    for prompt, text in enumerate(TEXTS):
        for image in range(2):
            one = noise[[2 * prompt + image]]
            alone = recorded(pipe, texts=text, latents=one)
            for name in ("mass", "mass_uncond"):
                np.testing.assert_allclose(batch[name][prompt, image], alone[name][0, 0], atol=1e-5)


def test_several_calls_become_seeds_or_prompts(sd1) -> None:
    with record(sd1) as log:
        for seed in range(2):
            for text in TEXTS:
                latents(sd1, text, seed=seed)
    data = log.dataset(seeds=[10, 11])
    assert data.sizes["prompt"] == 2
    assert data.seed.values.tolist() == [10, 11]
    np.testing.assert_array_equal(data.mass[1, 1], recorded(sd1, texts=TEXTS[1], seed=1).mass[0, 0])


def test_the_same_text_twice_in_a_call_stays_two_prompts(sd1) -> None:
    data = recorded(sd1, texts=("goat", "goat"))
    assert data.text.values.tolist() == ["goat", "goat"]
    assert data.sizes["seed"] == 1


def test_prompts_with_fewer_images_are_padded(sd1) -> None:
    with record(sd1) as log:
        latents(sd1, TEXTS[0], num_images_per_prompt=2)
        latents(sd1, TEXTS[1])
    data = log.dataset()
    assert data.mass[1, 1].isnull().all()
    assert data.mass[:, 0].notnull().all()


def test_runs_of_different_schedules_are_no_one_dataset(sd1) -> None:
    with record(sd1) as log:
        latents(sd1, steps=2)
        latents(sd1, steps=3)
    with pytest.raises(InterpError, match="separate"):
        log.dataset()


def test_wrong_number_of_seeds_is_refused(sd1) -> None:
    with record(sd1) as log:
        latents(sd1)
    with pytest.raises(InterpError, match="2 seeds were given"):
        log.dataset(seeds=[0, 1])


def test_nothing_recorded_is_an_error(sd1) -> None:
    with record(sd1) as log:
        pass
    with pytest.raises(InterpError, match="Nothing was recorded"):
        log.dataset()


def test_embeddings_with_tokens_equal_text(pipe) -> None:
    prompt, empty = encode(pipe, [TEXTS[0], ""])
    with record(pipe, tokens=prompt, negative=empty) as log:
        from_embeds(pipe, [prompt.embeds], [prompt], empty)
    by_text = recorded(pipe, texts=TEXTS[0], negative_prompt="")
    by_embeds = log.dataset()
    np.testing.assert_array_equal(by_embeds.mass, by_text.mass)
    np.testing.assert_array_equal(by_embeds.mass_uncond, by_text.mass_uncond)


def test_unconditional_rows_that_nobody_describes_are_nan(sd1) -> None:
    prompt, empty = encode(sd1, [TEXTS[0], ""])
    with record(sd1, mass, entropy, tokens=prompt) as log:
        from_embeds(sd1, [prompt.embeds], [prompt], empty)
    data = log.dataset()
    assert data.mass_uncond.isnull().all()
    assert data.entropy_uncond.notnull().all()
    assert data.mass.notnull().all()


def test_recording_changes_no_image_and_keeps_no_graph(pipe) -> None:
    plain = latents(pipe)
    with record(pipe, mass, entropy, token_mass) as log:
        assert torch.equal(latents(pipe), plain)
    assert torch.equal(latents(pipe), plain)
    kept = [values for run in log.runs for values, *_ in run.values.values()]
    assert not any(values.requires_grad for values in kept)
    # Nothing as wide as a map was kept: 4 numbers, 77 or 1 per row and head.
    assert {values[0, 0].numel() for values in kept} == {4, 77, 1}


def test_recording_survives_ip_adapter_inputs(sd1) -> None:
    """IP-Adapter turns the text into (text, images); text attention must be found in it."""
    plain = recorded(sd1)
    width = sd1.unet.config.cross_attention_dim
    made = {}
    for name, old in sd1.unet.attn_processors.items():
        layer = sd1.unet.get_submodule(name.removesuffix(".processor"))
        made[name] = (
            IPAdapterAttnProcessor2_0(layer.to_q.out_features, width, num_tokens=(4,), scale=0.0)
            if layer.is_cross_attention
            else old
        )
    sd1.unet.process_encoder_hidden_states = lambda encoder_hidden_states, added_cond_kwargs: (
        encoder_hidden_states,
        [torch.zeros(len(encoder_hidden_states), 1, 4, width)],
    )
    try:
        sd1.unet.set_attn_processor(made)
        with_images = recorded(sd1)
        with ip.zero("pad", side="k", heads=0).on(sd1), record(sd1) as log:
            latents(sd1, TEXTS)
        patched = log.dataset()
    finally:
        del sd1.unet.process_encoder_hidden_states
        sd1.unet.set_attn_processor(AttnProcessor2_0())
    np.testing.assert_allclose(with_images.mass, plain.mass, atol=1e-6)
    with ip.zero("pad", side="k", heads=0).on(sd1), record(sd1) as log:
        latents(sd1, TEXTS)
    np.testing.assert_allclose(patched.mass, log.dataset().mass, atol=1e-6)


def test_provenance_names_model_scheduler_and_patches(pipe) -> None:
    with ip.zero("pad", fraction=0.5).on(pipe), record(pipe) as log:
        latents(pipe)
    facts = ip.provenance(log.dataset())
    assert facts["scheduler"]["class"] == "DDIMScheduler"
    assert '"fraction": 0.5' in facts["patches"][0]


def test_a_prompt_that_is_exchanged_on_the_way(sd1) -> None:
    """Each prompt has its steps; in the others it is absent."""

    def exchange(pipe: Any, index: int, timestep: Any, state: dict) -> dict:
        if index == 0:
            (other,) = encode(pipe, "a dog")
            state["prompt_embeds"] = torch.stack([state["prompt_embeds"][0], other.embeds])
        return state

    with record(sd1) as log:
        latents(sd1, TEXTS[0], steps=3, callback_on_step_end=exchange,
                callback_on_step_end_tensor_inputs=["prompt_embeds"])  # fmt: skip
    data = log.dataset()
    assert data.text.values.tolist() == [TEXTS[0], "a dog"]
    there = data.mass.notnull().all(["seed", "layer", "head", "category"])
    assert there.values.tolist() == [[True, False, False], [False, True, True]]
    with record(sd1) as log:
        latents(sd1, TEXTS[0], steps=3)
    whole = log.dataset().mass.isel(prompt=0, step=0)
    np.testing.assert_array_equal(data.mass.isel(prompt=0, step=0), whole)


def test_a_rerun_of_the_same_step_is_refused(sd1) -> None:
    prompt, _ = encode(sd1, [TEXTS[0], ""])
    sample = torch.zeros(1, 4, 16, 16)
    with record(sd1, tokens=prompt, guided=False) as log, torch.no_grad():
        log.clock.at(3)
        sd1.unet(sample, 500, encoder_hidden_states=prompt.embeds[None])
        with pytest.raises(InterpError, match="recorded twice in one run"):
            sd1.unet(sample, 500, encoder_hidden_states=prompt.embeds[None])
    assert log.dataset().step.values.tolist() == [3]


def test_a_mask_of_the_callers_own_counts(sd1) -> None:
    """Hiding pads by `encoder_attention_mask` is masking them, and a patch's mask comes on top."""
    (prompt,) = encode(sd1, TEXTS[0])
    shown = (prompt.category != 3)[None]

    def masses(patch: ip.Patch, **call: Any) -> xr.DataArray:
        known = {"tokens": prompt, "guided": False}
        with patch.on(sd1, **known), record(sd1, **known) as log, torch.no_grad():
            sd1.unet(torch.zeros(1, 4, 16, 16), 500, prompt.embeds[None], **call)
        return log.dataset().mass

    hidden = masses(ip.Patch(), encoder_attention_mask=shown)
    assert float(hidden.sel(category="pad").max()) == 0
    np.testing.assert_allclose(hidden, masses(ip.mask("pad")), atol=1e-6)
    both = masses(ip.mask("eot"), encoder_attention_mask=shown)
    np.testing.assert_allclose(both, masses(ip.mask(("eot", "pad"))), atol=1e-6)


def test_overflow_is_not_taken_for_an_absent_head(sd1) -> None:
    with ip.scale("sot", 3e38).on(sd1), record(sd1) as log:
        latents(sd1)
    with pytest.raises(InterpError, match="mass of layer .* NaN, because something overflowed"):
        log.dataset()


def test_the_backward_pass_of_gradient_checkpointing_is_not_recorded() -> None:
    """It runs layers again: the record is that of the calls, and no graph breaks."""
    pipe = pipeline("sd1")
    prompt, _ = encode(pipe, [TEXTS[0], ""])
    known = {"tokens": prompt, "guided": False}

    def masses(checkpointing: bool) -> tuple[xr.DataArray, torch.Tensor]:
        if checkpointing:
            pipe.unet.enable_gradient_checkpointing()
        embeds = prompt.embeds[None].clone().requires_grad_()
        with record(pipe, **known) as log:
            losses = []
            for step in range(2):
                log.clock.at(step)
                sample = torch.full((1, 4, 16, 16), float(step))
                losses.append(pipe.unet(sample, 500, embeds).sample.pow(2).sum())
            (gradient,) = torch.autograd.grad(sum(losses), embeds)
        return log.dataset().mass, gradient

    (plain, gradient), (again, same) = masses(False), masses(True)
    assert np.abs(plain[:, :, 0] - plain[:, :, 1]).max() > 1e-3
    np.testing.assert_array_equal(plain, again)
    assert torch.allclose(gradient, same, rtol=1e-4, atol=1e-4)
    embeds = prompt.embeds[None].clone().requires_grad_()
    with (
        pytest.raises(InterpError, match="under gradient checkpointing"),
        ip.zero("pad").on(pipe, **known),
    ):
        pipe.unet(torch.zeros(1, 4, 16, 16), 500, embeds)
    with ip.zero("pad").on(pipe, **known), torch.no_grad():
        pipe.unet(torch.zeros(1, 4, 16, 16), 500, embeds)


def test_autocast_does_not_reach_the_record(pipe) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16), record(pipe, mass, token_mass) as log:
        latents(pipe)
    data = log.dataset()
    for name, over in (("mass", "category"), ("token_mass", "position")):
        total = data[name].sum(over, skipna=False)
        np.testing.assert_allclose(total.where(data["head"] < data.n_heads, 1), 1, atol=1e-5)
