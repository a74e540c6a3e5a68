"""The clock, the rows, the refusals, and hooks that come off in any order."""

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
from interp.denoiser.batch import RowReader
from interp.denoiser.clock import StepClock
from interp.denoiser.hooks import Hooks, hookable
from interp.denoiser.layers import sites
from interp.session import Session
from tests.conftest import hook_count
from tests.runs import TEXTS, from_embeds, latents


class Calls:
    """The steps and rows of each UNet call."""

    def __init__(self, pipe: Any, **reader: Any) -> None:
        self.pipe, self.keywords = pipe, reader
        self.steps: list[tuple[int, int]] = []
        self.rows: list[Any] = []

    def __enter__(self) -> "Calls":
        self.hooks = Hooks()
        self.reader = RowReader(self.pipe, self.hooks, **self.keywords)
        self.clock = StepClock(self.pipe, self.hooks)
        self.hooks.before(self.pipe.unet, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.close()

    def _note(self, *call: Any) -> None:
        self.steps.append((self.clock.run, self.clock.step))
        self.rows.append(self.reader.batch)

    def texts(self) -> list[str | None]:
        return [None if prompt is None else prompt.text for prompt in self.rows[-1].prompts]


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


def test_rows_are_unconditional_then_conditional_with_images_side_by_side(pipe) -> None:
    with Calls(pipe) as calls:
        latents(pipe, TEXTS, num_images_per_prompt=2, negative_prompt=["bad", "worse"], steps=1)
    known = [prompt.ids.tolist() for prompt in encode(pipe, ["bad", "worse", *TEXTS])]
    assert [prompt.ids.tolist() for prompt in calls.rows[-1].prompts] == [
        ids for ids in known for _ in range(2)
    ]
    assert (calls.rows[-1].uncond, calls.rows[-1].images) == (4, 2)


def test_without_guidance_all_rows_are_conditional(pipe) -> None:
    with Calls(pipe) as calls:
        latents(pipe, TEXTS, num_images_per_prompt=2, guidance_scale=1.0, steps=1)
    assert (calls.rows[-1].uncond, calls.rows[-1].images) == (0, 2)
    assert None not in calls.texts()


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_described_rows_equal_recognised_ones(pipe, guidance: float) -> None:
    prompts = encode(pipe, TEXTS)
    with Calls(pipe) as heard:
        latents(pipe, TEXTS, num_images_per_prompt=2, guidance_scale=guidance, steps=1)
    with Calls(pipe, tokens=prompts) as told:
        latents(pipe, TEXTS, num_images_per_prompt=2, guidance_scale=guidance, steps=1)
    assert told.rows[-1].ids == heard.rows[-1].ids
    assert torch.equal(told.rows[-1].category, heard.rows[-1].category)
    assert (told.rows[-1].uncond, told.rows[-1].images) == (
        heard.rows[-1].uncond,
        heard.rows[-1].images,
    )


TRICKY = {
    "": 0,
    "goat": 1,
    "a photo of a goat!": 6,
    "a <|endoftext|> goat": 3,
    "a <|startoftext|> goat": 3,
    " ".join(["goat"] * 75): 75,
    " ".join(["goat"] * 80): 75,
}


def test_recognised_prompts_have_the_categories_of_encoded_ones(pipe) -> None:
    """One batch of all lengths, with tokens in it that could be taken for ends or pads."""
    with Calls(pipe) as calls:
        latents(pipe, tuple(TRICKY), steps=1, guidance_scale=1.0)
    with pytest.warns(UserWarning, match="'goat goat goat goat goat' was cut off"):
        prompts = encode(pipe, list(TRICKY))
    assert torch.equal(calls.rows[-1].category, torch.stack([p.category for p in prompts]))
    for row, words in zip(calls.rows[-1].prompts, TRICKY.values(), strict=True):
        assert list(row.counts.values()) == [1, words, 1, 75 - words]


@pytest.mark.parametrize(("kind", "words"), [("sd1", 1), ("sd2", 2), ("sdxl", 2)])
def test_a_prompt_that_ends_by_spelling_out_the_end(make_pipe, kind: str, words: int) -> None:
    """With SD 1 its ids are those of the shorter prompt; elsewhere an encoder pads otherwise."""
    pipe = make_pipe(kind)
    with Calls(pipe) as calls:
        latents(pipe, "goat <|endoftext|>", steps=1)
    assert calls.rows[-1].prompts[-1].counts["prompt"] == words


def test_rows_of_no_prompt_are_refused(sd1) -> None:
    with pytest.raises(InterpError, match="0 prompts were described"), Calls(sd1, tokens=[]):
        latents(sd1, steps=1)


def test_encodings_made_meanwhile_do_not_mislead(pipe) -> None:
    with Calls(pipe) as calls:
        encode(pipe, ["another prompt", "and another, longer prompt"])
        latents(pipe, steps=1)
        encode(pipe, "yet another")
        latents(pipe, "a dog", steps=1)
    assert calls.texts()[-1] == "a dog"
    assert [rows.prompts[-1].text for rows in calls.rows] == ["a photo of a goat", "a dog"]


def test_the_same_prompt_twice_is_two_prompts(sd1) -> None:
    with Calls(sd1) as calls:
        latents(sd1, ("goat", "goat"), steps=1)
        latents(sd1, "goat", num_images_per_prompt=2, steps=1)
    assert [rows.images for rows in calls.rows] == [1, 2]


def test_unknown_embeddings_ask_for_tokens(pipe) -> None:
    prompt, empty = encode(pipe, [TEXTS[0], ""])
    with pytest.raises(InterpError, match="tokens=interp.encode"), Calls(pipe):
        from_embeds(pipe, [prompt.embeds + 1], [prompt], empty)


def test_a_batch_that_does_not_fit_the_prompts_is_refused(sd1, sd2) -> None:
    a, b = encode(sd1, TEXTS)
    with pytest.raises(InterpError, match="1 of these are conditional"), Calls(sd1, tokens=[a, b]):
        latents(sd1)
    (wrong,) = encode(sd1, "goat")
    object.__setattr__(wrong, "embeds", wrong.embeds[:, :16])
    with (
        pytest.raises(InterpError, match="Encode it with this pipeline"),
        Calls(sd2, tokens=[wrong]),
    ):
        latents(sd2)


def test_negative_embeddings_that_nobody_describes_are_unknown(sd1) -> None:
    prompt, empty = encode(sd1, [TEXTS[0], ""])
    with Calls(sd1, tokens=[prompt]) as calls:
        from_embeds(sd1, [prompt.embeds], [prompt], empty, steps=1)
    assert calls.texts() == [None, TEXTS[0]]
    with Calls(sd1, tokens=[prompt], negative=[empty]) as calls:
        from_embeds(sd1, [prompt.embeds], [prompt], empty, steps=1)
    assert calls.texts() == ["", TEXTS[0]]
    with (
        pytest.raises(InterpError, match="2 negative prompts"),
        Calls(sd1, tokens=[prompt], negative=[empty, empty]),
    ):
        from_embeds(sd1, [prompt.embeds], [prompt], empty, steps=1)


def test_the_zero_rows_of_sdxl_have_the_layout_of_the_empty_prompt(sdxl) -> None:
    with Calls(sdxl) as calls:
        latents(sdxl, steps=1)
    zero_row = calls.rows[-1].prompts[0]
    assert not zero_row.embeds.any()
    assert list(zero_row.counts.values()) == [1, 0, 1, 75]


def test_clip_skip_is_recognised(sdxl) -> None:
    with Calls(sdxl) as calls:
        latents(sdxl, steps=1, clip_skip=1)
    assert calls.texts()[-1] == TEXTS[0]


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
