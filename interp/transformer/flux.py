"""FLUX.1: double blocks with a stream each, then single blocks with one; T5, and a pooled CLIP.

Guidance is distilled: there are no unconditional rows, unless `true_cfg_scale` makes a second call
for them. Rotary embeddings turn the text's queries and keys too (by nothing, at position 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.transformer.calls import flow
from interp.transformer.family import T5, Attended, Block, Family, Segment, named


class Flux(Family):
    """Black Forest Labs 2024."""

    transformer = "FluxTransformer2DModel"
    pipelines = ("FluxPipeline", "FluxImg2ImgPipeline")
    segments = (Segment(T5, ("_2",)),)
    pooled = ("",)
    length = 512
    batched = (
        "hidden_states", "encoder_hidden_states", "pooled_projections", "timestep", "guidance",
    )  # fmt: skip
    processors = ("FluxAttnProcessor", "FluxIPAdapterAttnProcessor")
    passes = True
    told = 1e-3
    guide = "true_cfg_scale= above 1 (its guidance is distilled)"

    def guided(self, denoiser: Any, guidance: float, call: Mapping[str, Any]) -> bool:
        return call.get("true_cfg_scale", 1) > 1

    def channels(self, denoiser: Any) -> int:
        return denoiser.config.in_channels // 4

    def packed(self, latents: Float[Tensor, "row c h w"]) -> Tensor:
        return rearrange(latents, "row c (y p) (x q) -> row (y x) (c p q)", p=2, q=2)

    def spread(self, latents: Tensor, height: int, width: int) -> Float[Tensor, "row c h w"]:
        pattern = "row (y x) (c p q) -> row c (y p) (x q)"
        return rearrange(latents, pattern, y=height // 2, x=width // 2, p=2, q=2)

    def arguments(
        self,
        pipe: Any,
        latents: Tensor,
        embeds: Tensor,
        pooled: Tensor | None,
        read: Any,
        guidance: float,
    ) -> dict[str, Any]:
        given = super().arguments(pipe, latents, embeds, pooled, read, guidance)
        rows, columns = (side // 2 for side in latents.shape[-2:])
        at = embeds.device, embeds.dtype
        places = pipe._prepare_latent_image_ids(len(latents), rows, columns, *at)
        given |= {"img_ids": places, "txt_ids": places.new_zeros(embeds.shape[1], 3)}
        if pipe.transformer.config.guidance_embeds:
            given["guidance"] = torch.full((len(latents),), guidance, device=embeds.device)
        return given

    def schedule(self, scheduler: Any, steps: int, tokens: int = 4096, device: Any = None) -> None:
        flow(scheduler, steps, tokens, device, sigmas=True)

    def blocks(self, transformer: Any) -> list[Block]:
        return [
            *named("double", "transformer_blocks", "attn", transformer.transformer_blocks),
            *named(
                "single", "single_transformer_blocks", "attn", transformer.single_transformer_blocks
            ),
        ]

    def attended(
        self, attention: Any, args: tuple, kwargs: Mapping[str, Any], text: int
    ) -> Attended:
        image = args[0] if args else kwargs["hidden_states"]
        # A single block is given both streams as one, the text before the image.
        added, turn = kwargs.get("encoder_hidden_states"), kwargs["image_rotary_emb"]
        if attention.fused_projections:
            queries, keys, _ = attention.to_qkv(image).chunk(3, dim=-1)
        else:
            queries, keys = attention.to_q(image), attention.to_k(image)
        split = (attention.heads, -1)
        queries = attention.norm_q(queries.unflatten(-1, split))
        keys = attention.norm_k(keys.unflatten(-1, split))
        if added is not None:
            if attention.fused_projections:
                added_q, added_k, _ = attention.to_added_qkv(added).chunk(3, dim=-1)
            else:
                added_q, added_k = attention.add_q_proj(added), attention.add_k_proj(added)
            added_q = attention.norm_added_q(added_q.unflatten(-1, split))
            added_k = attention.norm_added_k(added_k.unflatten(-1, split))
            queries = torch.cat([added_q, queries], dim=1)
            keys = torch.cat([added_k, keys], dim=1)
        queries = apply_rotary_emb(queries, turn, sequence_dim=1)
        keys = apply_rotary_emb(keys, turn, sequence_dim=1)
        of_image = queries[:, text:].transpose(1, 2)
        bias = kwargs.get("attention_mask")
        return Attended(of_image, keys.transpose(1, 2), text, attention.head_dim**-0.5, bias)
