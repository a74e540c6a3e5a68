"""Attenuation against the same attention written out, for rows, kernels and layers."""

import pytest
import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange

import interp as ip
from interp.errors import InterpError
from tests.runs import PROCESSORS, TEXTS, latents, processor


class WrittenOut:
    """GUARD's attenuation as a processor: logits of keys that stand out times a factor.

    Only in the rows from `first` on; without a threshold nothing is changed.
    """

    def __init__(self, factor=1.0, threshold=None, first=None):
        self.factor, self.threshold, self.first = factor, threshold, first

    def __call__(self, attn, hidden, encoder_hidden_states, attention_mask=None, **kwargs):
        split = "b n (h d) -> b h n d"
        q = rearrange(attn.to_q(hidden), split, h=attn.heads)
        k = rearrange(attn.to_k(encoder_hidden_states), split, h=attn.heads)
        v = rearrange(attn.to_v(encoder_hidden_states), split, h=attn.heads)
        logits = q @ rearrange(k, "b h n d -> b h d n") * attn.scale
        if self.threshold is not None:
            for row in range(len(hidden) // 2 if self.first is None else self.first, len(hidden)):
                for head in range(attn.heads):
                    peak = logits[row, head].max(dim=0).values
                    usual = peak[1:]
                    for key in range(1, 77):
                        if (peak[key] - usual.mean()) / usual.std() > self.threshold:
                            logits[row, head, :, key] *= self.factor
        out = rearrange(logits.softmax(-1) @ v, "b h n d -> b n (h d)")
        return attn.to_out[1](attn.to_out[0](out))


def cross_attention(unet):
    return [m for m in unet.modules() if isinstance(m, Attention) and m.is_cross_attention]


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_it_is_the_attention_written_out(kind, request):
    pipe = request.getfixturevalue(kind)
    with ip.attenuate(0.3, 0.5).on(pipe):
        patched = latents(pipe, TEXTS)
    stock = pipe.unet.attn_processors
    try:
        for layer in cross_attention(pipe.unet):
            layer.processor = WrittenOut(0.3, 0.5)
        by_hand = latents(pipe, TEXTS)
    finally:
        pipe.unet.set_attn_processor(dict(stock))
    torch.testing.assert_close(patched, by_hand, atol=1e-4, rtol=1e-4)
    assert (patched - latents(pipe, TEXTS)).abs().max() > 1e-3


def test_kernels_agree_and_a_factor_of_one_changes_nothing(sd1):
    found = []
    for kernel in PROCESSORS:
        with processor(sd1, kernel), ip.attenuate(0.3, 0.5, layers="up").on(sd1):
            found.append(latents(sd1, TEXTS))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], atol=1e-4, rtol=1e-4)
    with ip.attenuate(1, 0).on(sd1):
        assert torch.equal(latents(sd1, TEXTS), latents(sd1, TEXTS))
    patch = ip.attenuate(0.3, 0.5, "pad", layers="up", steps=[0])
    assert ip.Patch.from_json(patch.to_json()) == patch
    with pytest.raises(InterpError, match="finite numbers"):
        ip.attenuate(float("nan"), 0)
