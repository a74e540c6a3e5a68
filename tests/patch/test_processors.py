"""Processors that are not diffusers': followed where they attend as usual, refused elsewhere."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from einops import rearrange
from torch import Tensor

import interp as ip
from interp import InterpError, Patch
from tests.runs import latents

SPLIT = "b n (h d) -> b h n d"


class Plain:
    """Attention written out: what hooks assume."""

    def keys(self, attn: Any, text: Tensor) -> Tensor:
        return attn.to_k(text)

    def attend(self, weights: Tensor) -> Tensor:
        return weights

    def __call__(
        self,
        attn: Any,
        hidden: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Any = None,
    ) -> Tensor:
        text = hidden if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            rearrange(part, SPLIT, h=attn.heads)
            for part in (attn.to_q(hidden), self.keys(attn, text), attn.to_v(text))
        )
        logits = q @ rearrange(k, "b h n d -> b h d n") * attn.scale
        if attention_mask is not None:
            logits = logits + self.bias(attn, attention_mask, text)
        weights = logits.softmax(-1)
        weights = weights if encoder_hidden_states is None else self.attend(weights)
        return attn.to_out[1](attn.to_out[0](rearrange(weights @ v, "b h n d -> b n (h d)")))

    def bias(self, attn: Any, mask: Tensor, text: Tensor) -> Any:
        prepared = attn.prepare_attention_mask(mask, text.shape[1], len(text))
        return rearrange(prepared, "(b h) q n -> b h q n", h=attn.heads)


class OwnKeys(Plain):
    """Reads the weight of the projection, past its hooks."""

    def keys(self, attn: Any, text: Tensor) -> Tensor:
        return text @ rearrange(attn.to_k.weight, "out channel -> channel out")


class NoMask(Plain):
    """Takes no notice of masks."""

    def bias(self, attn: Any, mask: Tensor, text: Tensor) -> Any:
        return 0


class Rewriting(Plain):
    """Gives the conditional row the unconditional row's attention, as prompt-to-prompt does."""

    def attend(self, weights: Tensor) -> Tensor:
        return torch.cat([weights[: len(weights) // 2]] * 2)


@contextmanager
def attending(pipe: Any, kind: type) -> Iterator[None]:
    pipe.unet.set_attn_processor(kind())
    try:
        yield
    finally:
        pipe.unet.set_attn_processor(AttnProcessor2_0())


NARROW = {
    "keys": ip.zero("pad", side="k"),
    "one head": ip.zero("pad", heads=0),
    "mask": ip.mask("pad"),
    "neurons": ip.silence({"mid.0": [0, 1]}),
}


@pytest.mark.parametrize("name", NARROW)
def test_a_processor_that_attends_as_usual_is_patched_and_recorded(sd1, name: str) -> None:
    with NARROW[name].on(sd1), ip.record(sd1) as stock:
        expected = latents(sd1)
    with attending(sd1, Plain), NARROW[name].on(sd1), ip.record(sd1) as own:
        assert torch.allclose(latents(sd1), expected, atol=1e-4)
    np.testing.assert_allclose(own.dataset().mass, stock.dataset().mass, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(OwnKeys, "keys"), (OwnKeys, "one head"), (NoMask, "mask")]
    + [(Rewriting, name) for name in NARROW],
)
def test_a_processor_that_a_patch_does_not_reach_is_refused(sd1, kind: type, name: str) -> None:
    with (
        attending(sd1, kind),
        pytest.raises(InterpError, match=f"attends by a {kind.__name__}"),
        NARROW[name].on(sd1, strict=False),
    ):
        latents(sd1)


def test_attention_that_is_rewritten_is_not_recorded(sd1) -> None:
    with attending(sd1, Rewriting), ip.record(sd1), pytest.raises(InterpError, match="Rewriting"):
        latents(sd1)


@pytest.mark.parametrize("kind", [Plain, OwnKeys, NoMask, Rewriting])
def test_whole_embeddings_reach_any_processor(sd1, kind: type) -> None:
    """Which is said of those that do more than attend to them."""
    (prompt,), (empty,) = ip.encode(sd1, "a goat"), ip.encode(sd1, "")
    embeds = ip.zero("pad").embeds(prompt)[None]
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": empty.embeds[None]}
    with attending(sd1, kind), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        expected = latents(sd1, None, **given)
        assert not caught
        with ip.zero("pad").on(sd1):
            assert torch.equal(latents(sd1, "a goat"), expected)
    said = any("does more than attend" in str(one.message) for one in caught)
    assert said == (kind is Rewriting)


def test_only_what_was_carried_out_counts(sd1) -> None:
    """An operation on keys touches nothing as long as no layer projects any."""
    patch: Patch = ip.zero("pad", side="k")
    applied = patch.install(sd1)
    seen: list[set] = []
    layer = sd1.unet.get_submodule(ip.sites(sd1.unet)[0].path)
    handle = layer.register_forward_pre_hook(lambda *_: seen.append(set(applied.touched)))
    latents(sd1, steps=1)
    handle.remove()
    applied.remove()
    assert seen == [set()]
    assert applied.touched == set(patch.operations)


@pytest.mark.parametrize("patch", [ip.mask("pad"), ip.zero("pad"), ip.zero("pad", heads=0)])
def test_autocast_changes_a_patch_as_it_changes_the_model(sd1, patch: Patch) -> None:
    """As near to the patched model in float32 as the model itself comes."""

    def both(**how: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, **how):
            return latents(sd1, steps=1)

    rounding = (both() - both(enabled=False)).abs().max()
    with patch.on(sd1):
        assert (both() - both(enabled=False)).abs().max() < 5 * rounding
        assert (both() - latents(sd1, steps=1)).abs().max() < 5 * rounding
    with patch.on(sd1):
        patched = both()
    assert (patched - both()).abs().max() > 5 * rounding
