"""Short runs of the small pipelines, and a view of the attention that a kernel really used."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import xarray as xr
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
)
from einops import rearrange
from torch import Tensor
from torch.nn import functional

from interp import record

TEXTS = ("a photo of a goat", "wow, an antique church poster!")
PROCESSORS = ("default", "eager", "sliced", "fused")


def latents(pipe: Any, texts: Any = TEXTS[0], steps: int = 2, seed: int = 0, **call: Any) -> Tensor:
    """The final latents of one pipeline call with its own noise."""
    if isinstance(texts, tuple):
        texts = list(texts)
    return pipe(
        texts,
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **call,
    ).images


def from_embeds(
    pipe: Any, embeds: Sequence[Tensor], prompts: Sequence[Any], empty: Any = None, **call: Any
) -> Tensor:
    """The same from hand-made prompt embeddings, with the prompts' own pooled embeddings."""
    given = {"prompt_embeds": torch.stack(list(embeds))}
    if empty is not None:
        given["negative_prompt_embeds"] = torch.stack([empty.embeds] * len(embeds))
    if prompts[0].pooled is not None:
        given["pooled_prompt_embeds"] = torch.stack([prompt.pooled for prompt in prompts])
        if empty is not None:
            given["negative_pooled_prompt_embeds"] = torch.stack([empty.pooled] * len(embeds))
    return latents(pipe, None, **given, **call)


@contextmanager
def processor(pipe: Any, kind: str) -> Iterator[None]:
    """The UNet with another attention kernel."""
    if kind == "fused":
        pipe.unet.fuse_qkv_projections()
    else:
        made = {
            "default": AttnProcessor2_0(),
            "eager": AttnProcessor(),
            "sliced": SlicedAttnProcessor(1),
        }[kind]
        pipe.unet.set_attn_processor(made)
    try:
        yield
    finally:
        if kind == "fused":
            pipe.unet.unfuse_qkv_projections()
        # Not set_default_attn_processor(), which sets the eager one.
        pipe.unet.set_attn_processor(AttnProcessor2_0())


@contextmanager
def kernels(pipe: Any, monkeypatch: Any) -> Iterator[list[Tensor]]:
    """The `[row, head, query, key]` probabilities of every cross-attention call, as used.

    Read off the kernels themselves: from the eager processors' scores, and from the queries, keys
    and mask that `scaled_dot_product_attention` is given.
    """
    seen: list[Tensor] = []
    slices: list[Tensor] = []
    scores, kernel = Attention.get_attention_scores, functional.scaled_dot_product_attention

    def spy_scores(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        probabilities = scores(self, *args, **kwargs)
        if self.is_cross_attention:
            slices.append(probabilities)
        return probabilities

    def spy_kernel(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **rest: Any
    ) -> Tensor:
        if key.shape[2] == 77 and inside:
            logits = query.float() @ rearrange(key.float(), "b h t d -> b h d t")
            logits = logits / query.shape[-1] ** 0.5
            logits = logits if attn_mask is None else logits + attn_mask.float()
            seen.append(logits.softmax(-1))
        return kernel(query, key, value, attn_mask=attn_mask, **rest)

    inside: list[int] = []

    def enter(module: Any, args: Any, kwargs: Any) -> None:
        inside.append(1)

    def leave(module: Any, args: Any, output: Any) -> None:
        inside.clear()
        if slices:
            whole = torch.cat(slices).float()
            seen.append(rearrange(whole, "(b h) n t -> b h n t", h=module.heads))
            slices.clear()

    layers = [m for m in pipe.unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
    handles = [layer.register_forward_pre_hook(enter, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(leave) for layer in layers]
    with monkeypatch.context() as patched:
        patched.setattr(Attention, "get_attention_scores", spy_scores)
        patched.setattr(functional, "scaled_dot_product_attention", spy_kernel)
        yield seen
    for handle in handles:
        handle.remove()


def recorded(
    pipe: Any, *recorders: Any, texts: Any = TEXTS, log: Any = None, **call: Any
) -> xr.Dataset:
    with record(pipe, *recorders, **(log or {})) as written:
        latents(pipe, texts, **call)
    return written.dataset()
