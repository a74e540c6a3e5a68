"""One layer's attention, recomputed from its projections and its mask."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.hooks import is_fused
from interp.errors import InterpError


def probabilities(
    queries: Float[Tensor, "row head query inner"],
    keys: Float[Tensor, "row head position inner"],
    scale: float,
    bias: Float[Tensor, "row head 1 position"] | None,
) -> Float[Tensor, "row head query position"]:
    """Attention probabilities in float32, whatever the model's dtype. Call it outside autocast.

    Example:
        >>> queries, keys = torch.randn(2, 1, 8, 77, 40)
        >>> probabilities(queries, keys, 40**-0.5, None).sum(-1)     # all ones
    """
    # Scaling the few keys is cheaper than scaling the many logits, and so is copying them into the
    # order in which the product reads them.
    columns = rearrange(keys.float() * scale, "row head position inner -> row head inner position")
    logits = queries.float() @ columns.contiguous()
    return torch.softmax(logits if bias is None else logits + bias, dim=-1)


def keys_of(
    attention: Any, text: Float[Tensor, "row position channel"]
) -> Float[Tensor, "row head position inner"]:
    """The keys of a layer, including patches of single heads: `keys_of(layer, embeds)`."""
    # Call the module, not its forward: patches of single heads are hooks on it.
    projected = (
        attention.to_kv(text).chunk(2, dim=-1)[0] if is_fused(attention) else attention.to_k(text)
    )
    return rearrange(
        projected, "row position (head inner) -> row head position inner", head=attention.heads
    )


def bias_of(
    attention: Any, mask: Tensor | None, rows: int, length: int, piece: slice
) -> Float[Tensor, "row head 1 position"] | None:
    """What a layer's mask adds to the logits of a piece of its rows, or None."""
    if mask is None:
        return None
    prepared = attention.prepare_attention_mask(mask, length, rows)
    return rearrange(
        prepared, "(row head) query position -> row head query position", head=attention.heads
    )[piece].float()


def grid(queries: int, sample: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a layer with this number of queries, in a UNet that halves its sample.

    Raises:
        InterpError: the queries do not form such a grid.
    """
    height, width = sample
    while height * width > queries:
        # Convolutions of stride 2 round up.
        height, width = (height + 1) // 2, (width + 1) // 2
    if height * width != queries:
        raise InterpError(
            f"Cannot record a layer with {queries} queries.",
            f"They do not form a grid of a {sample[0]} x {sample[1]} sample: tokens were merged.",
            "Record without token merging, or merge with merge_crossattn=False.",
        )
    return height, width
