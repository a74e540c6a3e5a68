"""Does a layer's attention do what hooks on its projections assume?

Those of diffusers do. Any other may read weights itself, ignore masks, or rewrite what is attended
to, as prompt-to-prompt does; then patches of single heads or sides do nothing, and what is recorded
is not what happened. So such a layer's output is compared, at every call, with attention worked out
from its projections.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models import attention_processor as stock
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.hooks import is_fused
from interp.denoiser.layers import Site
from interp.errors import InterpError

STOCK = (
    stock.AttnProcessor,
    stock.AttnProcessor2_0,
    stock.FusedAttnProcessor2_0,
    stock.IPAdapterAttnProcessor,
    stock.IPAdapterAttnProcessor2_0,
    stock.IPAdapterXFormersAttnProcessor,
    stock.SlicedAttnProcessor,
    stock.XFormersAttnProcessor,
)


def is_stock(attention: Any) -> bool:
    """Whether a layer attends in one of diffusers' own ways.

    Example:
        >>> is_stock(pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2)
        True
    """
    return type(attention.processor) in STOCK


def deviation(attention: Any, args: tuple, kwargs: dict, output: Tensor) -> float:
    """How far a layer's output is from attention to its text, relative to the latter.

    Example:
        >>> with Hooks() as hooks:
        ...     hooks.after(attention, lambda *call: seen.append(deviation(*call)))
        ...     pipe("a photo of a goat")
        >>> max(seen) < 1e-4
        True

    Infinite where that can not be said, because the layer was given images beside the text.
    """
    hidden, given, mask = args[0], kwargs["encoder_hidden_states"], kwargs.get("attention_mask")
    if isinstance(given, tuple):
        return float("inf")
    with torch.no_grad():
        # Calling the modules, not their forwards: patches of single heads are hooks on them.
        if is_fused(attention):
            keys, values = attention.to_kv(given).chunk(2, dim=-1)
        else:
            keys, values = attention.to_k(given), attention.to_v(given)
        split = "row place (head inner) -> row head place inner"
        queries, keys, values = (
            rearrange(part, split, head=attention.heads)
            for part in (attention.to_q(hidden), keys, values)
        )
        logits = queries @ rearrange(keys, "r h p i -> r h i p") * attention.scale
        if mask is not None:
            mask = attention.prepare_attention_mask(mask, given.shape[1], len(given))
            logits = logits + rearrange(mask, "(r h) q p -> r h q p", h=attention.heads)
        read = rearrange(logits.softmax(-1) @ values, "r h q i -> r q (h i)")
        expected = attention.to_out[1](attention.to_out[0](read.to(hidden.dtype)))
        if attention.residual_connection:
            expected = expected + hidden
        expected = expected / attention.rescale_output_factor
        return float((output - expected).float().norm() / expected.float().norm())


def must_follow(
    site: Site,
    attention: Any,
    args: tuple,
    kwargs: dict,
    output: Float[Tensor, "row query channel"],
) -> None:
    """Raise if a layer that is not stock does not attend as hooks on it assume.

    Example:
        >>> with Hooks() as hooks:
        ...     hooks.after(attention, lambda *call: must_follow(site, *call))
        ...     pipe("a photo of a goat")

    Raises:
        InterpError: naming the layer and its processor.
    """
    if is_stock(attention):
        return
    off = deviation(attention, args, kwargs, output)
    # Another kernel rounds differently; a processor that does something else is far off.
    if not off <= max(1e-4, 16 * torch.finfo(output.dtype).eps):
        raise InterpError(
            f"Layer {site.name} attends by a {type(attention.processor).__name__}.",
            f"What it returns is {off:.2g} away, relative to its size, from attention with the "
            "layer's own projections and masks, so it can not be recorded, nor can its keys, "
            "values, heads or masks be patched.",
            "Use diffusers' processors: unet.set_attn_processor(AttnProcessor2_0()).",
        )
