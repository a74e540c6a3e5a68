"""Stable Diffusion 3 and 3.5: joint blocks, CLIP-L and CLIP-G side by side, then T5.

In diffusers the image's keys come before the text's, and its processors ignore masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor
from torch.nn import functional

from interp.transformer.family import (
    CLIP,
    T5,
    Attended,
    Block,
    Family,
    Segment,
    heads_first,
    joined,
    named,
)


class SD3(Family):
    """Esser et al. 2024 (MM-DiT)."""

    transformer = "SD3Transformer2DModel"
    pipelines = ("StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline")
    segments = (Segment(CLIP, ("", "_2"), state=-2), Segment(T5, ("_3",)))
    pooled = ("", "_2")
    length = 256
    batched = ("hidden_states", "encoder_hidden_states", "pooled_projections", "timestep")
    processors = ("JointAttnProcessor2_0", "FusedJointAttnProcessor2_0")

    def blocks(self, transformer: Any) -> list[Block]:
        return named("joint", "transformer_blocks", "attn", transformer.transformer_blocks)

    def attended(
        self, attention: Any, args: tuple, kwargs: Mapping[str, Any], text: int
    ) -> Attended:
        image_q, image_k, _ = _of_image(attention, args, kwargs)
        _, text_k, _ = _of_text(attention, args, kwargs)
        bias = kwargs.get("attention_mask")
        keys = joined(text_k, image_k)
        return Attended(image_q, keys, text, image_q.shape[-1] ** -0.5, bias)

    def masked(
        self, attention: Any, args: tuple, kwargs: Mapping[str, Any], output: Any
    ) -> Any | None:
        bias = kwargs.get("attention_mask")
        if bias is None:
            return None
        of_image = _of_image(attention, args, kwargs)
        of_text = _of_text(attention, args, kwargs)
        queries, keys, values = (joined(*pair) for pair in zip(of_text, of_image, strict=True))
        read = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
        read = rearrange(read, "row head place inner -> row place (head inner)")
        length = of_text[0].shape[2]
        text, image = read[:, :length], read[:, length:]
        if not attention.context_pre_only:
            text = attention.to_add_out(text)
        return attention.to_out[1](attention.to_out[0](image)), text


def _streams(args: tuple, kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    image = args[0] if args else kwargs["hidden_states"]
    return image, kwargs["encoder_hidden_states"]


def _fused(attention: Any) -> bool:
    return type(attention.processor).__name__.startswith("Fused")


def _of_image(
    attention: Any, args: tuple, kwargs: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of the image."""
    image, _ = _streams(args, kwargs)
    if _fused(attention):
        # The fused processor leaves normalisation out.
        parts = attention.to_qkv(image).chunk(3, dim=-1)
        norms = (None, None)
    else:
        parts = attention.to_q(image), attention.to_k(image), attention.to_v(image)
        norms = attention.norm_q, attention.norm_k
    return _normed(attention, parts, norms)


def _of_text(
    attention: Any, args: tuple, kwargs: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    """The same of the text."""
    _, text = _streams(args, kwargs)
    if _fused(attention):
        parts = attention.to_added_qkv(text).chunk(3, dim=-1)
        norms = (None, None)
    else:
        parts = attention.add_q_proj(text), attention.add_k_proj(text), attention.add_v_proj(text)
        norms = attention.norm_added_q, attention.norm_added_k
    return _normed(attention, parts, norms)


def _normed(attention: Any, parts: Any, norms: tuple[Any, Any]) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys, values = (heads_first(part, attention.heads) for part in parts)
    norm_q, norm_k = norms
    queries = queries if norm_q is None else norm_q(queries)
    keys = keys if norm_k is None else norm_k(keys)
    return queries, keys, values
