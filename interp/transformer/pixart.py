"""PixArt-alpha and -sigma: blocks with plain cross-attention to T5, whose pads are masked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor

from interp.transformer.calls import Calls
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
    # Else images are made in another size, and resized.
    always: ClassVar[Mapping[str, Any]] = {"use_resolution_binning": False, "negative_prompt": None}
    # A run of a single step ends in what its scheduler gives second.
    fewest = 2

    def text(self, embeds: Tensor, pooled: Tensor | None, read: Tensor) -> dict[str, Tensor]:
        return {"prompt_embeds": embeds, "prompt_attention_mask": read.long()}

    def arguments(
        self,
        pipe: Any,
        latents: Tensor,
        embeds: Tensor,
        pooled: Tensor | None,
        read: Tensor,
        guidance: float,
    ) -> dict[str, Any]:
        given = super().arguments(pipe, latents, embeds, pooled, read, guidance)
        rows = len(latents)
        given["encoder_attention_mask"] = read.long().expand(rows, -1).to(embeds.device)
        size: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if pipe.transformer.config.sample_size == 128:
            height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
            size = {
                "resolution": torch.tensor([[height, width]]).expand(rows, -1).to(embeds),
                "aspect_ratio": torch.tensor([[height / width]]).expand(rows, -1).to(embeds),
            }
        return {**given, "added_cond_kwargs": size}

    def schedule(self, scheduler: Any, steps: int, tokens: int = 4096, device: Any = None) -> None:
        Calls.schedule(self, scheduler, steps, tokens, device)

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
