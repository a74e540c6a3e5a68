"""SDXL's second tokenizer pads with "!", and so splits "!!" in a prompt as the first does not."""

import numpy as np
import pytest
import torch

import interp as ip
from interp import InterpError, encode
from tests.runs import TEXTS, latents

Z = ip.zero("pad", fraction=0.7)


def test_it_does_not_matter_in_rows_that_nothing_is_asked_of(sdxl) -> None:
    """The negative prompt is left alone, and its categories are unknown."""
    (prompt,) = encode(sdxl, TEXTS[0])
    theirs = sdxl.encode_prompt("wow!!", device="cpu", do_classifier_free_guidance=False)
    with Z.on(sdxl), ip.record(sdxl) as log:
        ours = latents(sdxl, negative_prompt="wow!!")
    given = {
        "prompt_embeds": Z.embeds(prompt)[None],
        "pooled_prompt_embeds": prompt.pooled[None],
        "negative_prompt_embeds": theirs[0],
        "negative_pooled_prompt_embeds": theirs[2],
    }
    assert torch.equal(ours, latents(sdxl, None, **given))
    data = log.dataset()
    assert data.mass_uncond.isnull().all()
    np.testing.assert_allclose(
        data.mass.sum("category").where(data["head"] < data.n_heads, 1), 1, atol=1e-5
    )


def test_rows_that_are_patched_need_categories(sdxl) -> None:
    with pytest.raises(InterpError, match="or replace several '!' by one"), ip.repad().on(sdxl):
        latents(sdxl, negative_prompt="wow!!")
    with pytest.raises(InterpError, match=r"'wow !!'.* 2 and 3 tokens.* by one"), Z.on(sdxl):
        latents(sdxl, "wow!!")


def test_a_second_prompt_is_as_long_as_the_first_or_named(sdxl) -> None:
    """Of one length it is another text: pads stand where both have them."""
    expected = "'a photo of a goat' with prompt_2='a dog'.* 5 and 2 tokens.*Give both"
    with pytest.raises(InterpError, match=expected), Z.on(sdxl):
        latents(sdxl, prompt_2="a dog")
    (prompt,) = encode(sdxl, TEXTS[0])
    both = sdxl.encode_prompt(
        TEXTS[0], prompt_2="a photo of a dog", device="cpu", do_classifier_free_guidance=False
    )
    edited, first = both[0][0].clone(), prompt.e + 1
    edited[first : first + int((77 - first) * 0.7)] = 0
    with Z.on(sdxl):
        ours = latents(sdxl, prompt_2="a photo of a dog")
    given = {"prompt_embeds": edited[None], "pooled_prompt_embeds": both[2]}
    zeros = torch.zeros_like(edited)[None], torch.zeros_like(both[2])
    given |= {"negative_prompt_embeds": zeros[0], "negative_pooled_prompt_embeds": zeros[1]}
    assert torch.equal(ours, latents(sdxl, None, **given))
