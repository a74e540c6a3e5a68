"""The clock, the refusals, and hooks that come off in any order."""

from typing import Any

import pytest
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    DPMSolverMultistepScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import (
    AttnAddedKVProcessor,
    CustomDiffusionAttnProcessor,
)

from interp import InterpError, encode, record, zero
from interp.denoiser.hooks import hookable
from interp.denoiser.layers import sites
from interp.session import Session
from tests.calls import Calls
from tests.conftest import hook_count
from tests.runs import TEXTS, from_embeds, latents


def test_steps_count_unet_calls_of_each_pipeline_call(pipe) -> None:
    with Calls(pipe) as calls:
        latents(pipe, steps=3)
        latents(pipe, steps=2)
    assert calls.steps == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_a_pipeline_call_of_one_step_is_a_run_of_its_own(sd1) -> None:
    with Calls(sd1) as calls:
        for _ in range(3):
            latents(sd1, steps=1)
    assert calls.steps == [(0, 0), (1, 0), (2, 0)]


def test_calls_with_embeddings_are_told_apart(pipe) -> None:
    prompt, empty = encode(pipe, [TEXTS[0], ""])
    with Calls(pipe, tokens=[prompt]) as calls:
        for _ in range(2):
            from_embeds(pipe, [prompt.embeds], [prompt], empty)
    assert calls.steps == [(0, 0), (0, 1), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    ("scheduler", "calls"),
    [(HeunDiscreteScheduler, 5), (PNDMScheduler, 4), (DPMSolverMultistepScheduler, 3)],
)
def test_schedulers_that_call_more_often_than_they_have_steps(
    sd1, monkeypatch, scheduler: Any, calls: int
) -> None:
    other = scheduler.from_config(sd1.scheduler.config)
    if scheduler is PNDMScheduler:
        other = scheduler.from_config(sd1.scheduler.config, skip_prk_steps=True)
    monkeypatch.setattr(sd1, "scheduler", other)
    with Calls(sd1) as seen:
        latents(sd1, steps=3)
        latents(sd1, steps=3)
    assert seen.steps == [(run, step) for run in range(2) for step in range(calls)]


def test_a_hand_written_loop_is_followed(sd1) -> None:
    prompt, _ = encode(sd1, [TEXTS[0], ""])
    sample = torch.zeros(1, 4, 16, 16)
    with Calls(sd1, tokens=[prompt], guided=False) as calls, torch.no_grad():
        for _ in range(2):
            for timestep in (900, 500, 100):
                sd1.unet(sample, timestep, encoder_hidden_states=prompt.embeds[None])
        calls.clock.restart()
        sd1.unet(sample, 500, encoder_hidden_states=prompt.embeds[None])
        calls.clock.at(7)
        for _ in range(2):
            sd1.unet(sample, 100, encoder_hidden_states=prompt.embeds[None])
        calls.clock.at(None)
        sd1.unet(sample, 100, encoder_hidden_states=prompt.embeds[None])
    whole = [(run, step) for run in range(2) for step in range(3)]
    assert calls.steps == [*whole, (2, 0), (2, 7), (2, 7), (2, 8)]


def test_other_pipelines_work(sd1) -> None:
    pipe = AutoPipelineForImage2Image.from_pipe(sd1)
    pipe.set_progress_bar_config(disable=True)
    with Calls(pipe) as calls, zero("pad").on(pipe):
        pipe(TEXTS[0], torch.zeros(1, 3, 32, 32), num_inference_steps=4, strength=0.5)
    assert calls.steps == [(0, 0), (0, 1)]


@pytest.mark.parametrize("how", ["wrapped", "in place", "a block wrapped"])
def test_compiled_unets_are_refused(sd1, how: str) -> None:
    """torch compiles when a module is first called, which never happens here."""
    unet, block = sd1.unet, sd1.unet.mid_block
    assert hookable(sd1) == sites(unet)
    try:
        if how == "wrapped":
            sd1.unet = torch.compile(unet)
        elif how == "in place":
            block.compile()
        else:
            unet.mid_block = torch.compile(block)
        with pytest.raises(InterpError, match="silently ignores hooks"):
            zero("pad").install(sd1)
        with pytest.raises(InterpError, match="silently ignores hooks"), record(sd1):
            pass
        with pytest.raises(InterpError, match="silently ignores hooks"):
            Session(sd1, steps=1).trace("goat")
    finally:
        sd1.unet, unet.mid_block, block._compiled_call_impl = unet, block, None


def test_key_and_value_projections_beside_the_layers_own_are_refused(sd1) -> None:
    layer = sd1.unet.get_submodule(sites(sd1.unet)[0].path)
    stock, width = layer.processor, layer.to_k.in_features
    size = {"hidden_size": layer.to_k.out_features, "cross_attention_dim": width}
    layer.set_processor(CustomDiffusionAttnProcessor(**size))
    try:
        with pytest.raises(InterpError, match="projections of its own"):
            zero("pad").install(sd1)
    finally:
        layer.set_processor(stock)


def test_added_key_value_processors_are_refused(monkeypatch) -> None:
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "UpBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        cross_attention_dim=8,
        attention_head_dim=4,
        norm_num_groups=4,
    )
    assert any(
        isinstance(p, AttnAddedKVProcessor) or "AddedKV" in type(p).__name__
        for p in unet.attn_processors.values()
    )

    class Kandinsky:
        pass

    pipe = Kandinsky()
    pipe.unet = unet
    with pytest.raises(InterpError, match="attends to text and image at once"):
        hookable(pipe)


def test_hooks_come_off_in_any_order(sd1) -> None:
    before = hook_count(sd1)
    plain = latents(sd1)
    first, second = zero("pad").install(sd1), zero("eot").install(sd1)
    latents(sd1)
    first.remove()
    only_second = latents(sd1)
    second.remove()
    second.remove()
    with zero("eot").on(sd1):
        assert torch.equal(latents(sd1), only_second)
    assert torch.equal(latents(sd1), plain)
    assert hook_count(sd1) == before


def test_foreign_hooks_are_left_alone(sd1) -> None:
    seen = []
    handle = sd1.unet.mid_block.register_forward_hook(lambda *_: seen.append(1))
    with zero("pad").on(sd1), record(sd1):
        latents(sd1, steps=1)
    latents(sd1, steps=1)
    handle.remove()
    assert len(seen) == 2
