"""PixArt-alpha and -sigma: blocks with plain cross-attention to T5, whose pads are masked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from einops import rearrange
from torch import Tensor

from interp.transformer.family import T5, Attended, Block, Family, Segment, heads_first, named


class PixArt(Family):
    """Chen et al. 2023."""

    transformer = "PixArtTransformer2DModel"
    pipelines = ("PixArtAlphaPipeline",)
    segments = (Segment(T5, ("",)),)
    length = 120
    batched = (
        "hidden_states", "encoder_hidden_states", "timestep", "encoder_attention_mask",
        "added_cond_kwargs",
    )  # fmt: skip
    processors = ("AttnProcessor", "AttnProcessor2_0")
    joint = False
    masks = True

    def blocks(self, transformer: Any) -> list[Block]:
        return named("cross", "transformer_blocks", "attn2", transformer.transformer_blocks)

    def attended(
        self, attention: Any, args: tuple, kwargs: Mapping[str, Any], text: int
    ) -> Attended:
        image = args[0] if args else kwargs["hidden_states"]
        given = kwargs.get("attention_mask")
        queries = heads_first(attention.to_q(image), attention.heads)
        keys = heads_first(attention.to_k(kwargs["encoder_hidden_states"]), attention.heads)
        bias = None
        if given is not None:
            prepared = attention.prepare_attention_mask(given, text, len(image))
            bias = rearrange(prepared, "(row head) q key -> row head q key", head=attention.heads)
        return Attended(queries, keys, text, attention.scale, bias)

    def mask(self, out: Tensor, given: Tensor | None, attention: Any) -> Tensor:
        bias = rearrange(out, "row key head 1 -> (row head) 1 key")
        if given is None:
            return bias
        return bias + attention.prepare_attention_mask(given, out.shape[1], len(out))
