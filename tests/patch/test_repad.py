"""`repad` encodes as the row was encoded: at its layer, at its LoRA scale, or not at all."""

from typing import Any

import pytest
import torch
from torch import Tensor

import interp as ip
from interp import InterpError, encode
from tests.pipelines import pipeline, tokenizer
from tests.runs import TEXTS, from_embeds, latents


@pytest.mark.parametrize("skip", [None, 1])
def test_clip_skip_is_that_of_the_call(sdxl, monkeypatch, skip: int | None) -> None:
    """SDXL skips layers for the prompt and not for the negative prompt; so must `repad`."""
    call = {"clip_skip": skip, "negative_prompt": "bad"}
    with ip.repad("!").on(sdxl):
        ours = latents(sdxl, **call)
    monkeypatch.setattr(sdxl, "tokenizer", tokenizer("!"))
    assert torch.equal(ours, latents(sdxl, **call))


def test_embeddings_of_an_earlier_layer_are_known_by_themselves() -> None:
    """SD 1 skips layers in hand-made embeddings alone; `tokens` need not say so."""
    pipe = pipeline("sd1")

    def skipped(prompt: ip.Prompt) -> Tensor:
        with torch.no_grad():
            states = pipe.text_encoder(prompt.ids[None], output_hidden_states=True).hidden_states
            (norm,) = [
                m for n, m in pipe.text_encoder.named_modules() if n.endswith("final_layer_norm")
            ]
            return norm(states[-2])[0]

    (prompt,), (bang,) = encode(pipe, TEXTS[0]), encode(pipe, TEXTS[0], pad_token="!")
    (empty,) = encode(pipe, "")
    assert not torch.allclose(skipped(prompt), prompt.embeds, atol=0.1)
    with ip.repad("!", uncond=False).on(pipe, prompt):
        ours = from_embeds(pipe, [skipped(prompt)], [prompt], empty)
    assert torch.equal(ours, from_embeds(pipe, [skipped(bang)], [prompt], empty))


def test_the_lora_scale_is_that_of_the_call(monkeypatch) -> None:
    """The encoder is scaled only while the pipeline encodes, and `repad` runs later."""
    from peft import LoraConfig

    pipe = pipeline("sd1")
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pipe.text_encoder.add_adapter(config)
    images: dict[Any, Tensor] = {}
    for scale in (0.3, 1.0):
        call = {"cross_attention_kwargs": {"scale": scale}}
        with ip.repad("!").on(pipe):
            images[scale] = latents(pipe, **call)
        with monkeypatch.context() as other:
            other.setattr(pipe, "tokenizer", tokenizer("!"))
            assert torch.equal(images[scale], latents(pipe, **call))
    assert not torch.allclose(images[0.3], images[1.0], atol=1e-2)


def test_embeddings_that_no_layer_gives_are_refused(pipe) -> None:
    prompt, empty = encode(pipe, [TEXTS[0], ""])
    with (
        pytest.raises(InterpError, match="No layer of the text encoder reproduces its embeddings"),
        ip.repad("!", uncond=False).on(pipe, prompt),
    ):
        from_embeds(pipe, [prompt.embeds * 1.1], [prompt], empty)


def test_a_batch_is_encoded_again_row_by_row(pipe) -> None:
    """In a batch embeddings are rounded differently, which is no other layer."""
    prompts, bangs = encode(pipe, TEXTS), encode(pipe, TEXTS, pad_token="!")
    (empty,) = encode(pipe, "")
    with ip.repad("!", uncond=False).on(pipe):
        ours = latents(pipe, TEXTS, negative_prompt=["", ""])
    theirs = from_embeds(pipe, [bang.embeds for bang in bangs], prompts, empty)
    assert torch.allclose(ours, theirs, atol=1e-3)
