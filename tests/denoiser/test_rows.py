"""Which prompt is each row of a batch, and is it conditional?"""

import pytest
import torch

from interp import InterpError, encode
from tests.calls import Calls
from tests.runs import TEXTS, from_embeds, latents


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
