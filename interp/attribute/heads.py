"""Single heads of cross-attention: what a patch of the text changes in their outputs, exactly.

Softmax included, from queries that a run had; what becomes of it in the rest of the network is
another question (see `patching`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import product
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.denoiser.hooks import Hooks, is_fused
from interp.denoiser.layers import Site
from interp.text.prompt import Prompt

SIDES = ("k", "v")
Text = Float[Tensor, "text position head inner"]


@torch.no_grad()
def effects(
    queries: Float[Tensor, "row head query inner"],
    gradients: Float[Tensor, "probe row head query inner"],
    keys: Text,
    values: Text,
    members: Bool[Tensor, "position category"],
    scale: float,
) -> Float[Tensor, "probe patch side row head category"]:
    """How far exchanged keys or values of a category move a head's output along gradients.

    Example:
        >>> effects(q, g[None], keys, values, a.category[:, None] == torch.arange(4), 64**-0.5)

    Args:
        queries: of every head.
        gradients: with respect to every head's output.
        keys, values: the clean ones first, then those of every patch.
        members: the positions of every category.
        scale: of the logits.
    """

    def attend(k: Float[Tensor, "position head inner"]) -> Tensor:
        pattern = "row head query inner, position head inner -> row head query position"
        return (einsum(queries, k, pattern) * scale).softmax(-1)

    clean = attend(keys[0])
    read = einsum(
        clean, gradients,
        "row head query position, probe row head query inner -> probe row head position inner",
    )  # fmt: skip
    pull = einsum(
        gradients, values[0],
        "probe row head query inner, position head inner -> probe row head query position",
    )  # fmt: skip
    by_value = einsum(
        read, values[1:] - values[:1], members.float(),
        "probe row head position inner, patch position head inner, position category "
        "-> probe patch row head category",
    )  # fmt: skip
    by_key = torch.zeros_like(by_value)
    for (patch, edited), category in product(enumerate(keys[1:]), range(members.shape[1])):
        chosen = rearrange(members[:, category], "position -> position 1 1")
        if bool(((edited != keys[0]) & chosen).any()):
            moved = attend(torch.where(chosen, edited, keys[0])) - clean
            by_key[:, patch, ..., category] = einsum(
                moved, pull,
                "row head query position, probe row head query position -> probe row head",
            )  # fmt: skip
    return torch.stack([by_key, by_value], dim=2)


@contextmanager
def attended(
    unet: nn.Module, places: Sequence[Site]
) -> Iterator[tuple[dict[Site, Tensor], dict[Site, Tensor]]]:
    """Queries of these layers, and a zero added to what their heads read, as leaves of the graph.

    Example:
        >>> with attended(pipe.unet, sites(pipe.unet)) as (queries, leaves):
        ...     norm = predict(sd, points, a.embeds).norm()
        >>> torch.autograd.grad(norm, leaves[site])
    """
    queries: dict[Site, Tensor] = {}
    leaves: dict[Site, Tensor] = {}

    def ask(site: Site, module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        queries[site] = output.detach()

    def leave(site: Site, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        leaves[site] = torch.zeros_like(args[0]).requires_grad_()
        return (args[0] + leaves[site], *args[1:]), kwargs

    with Hooks() as hooks:
        for site in places:
            attention: Any = unet.get_submodule(site.path)
            hooks.after(attention.to_q, partial(ask, site))
            hooks.before(attention.to_out[0], partial(leave, site))
        yield queries, leaves


@torch.no_grad()
def texts_of(
    unet: nn.Module, site: Site, prompt: Prompt, edited: Sequence[Tensor]
) -> dict[str, Text]:
    """Keys and values of a layer, of the prompt and under each patch.

    Example:
        >>> texts_of(pipe.unet, site, a, [ip.zero("pad").embeds(a)])["k"]
    """
    text = torch.stack([prompt.embeds, *edited])
    attention: Any = unet.get_submodule(site.path)
    if is_fused(attention):
        parts = attention.to_kv(text).chunk(2, dim=-1)
    else:
        parts = (attention.to_k(text), attention.to_v(text))
    split = "text position (head inner) -> text position head inner"
    found = (rearrange(part.float(), split, head=site.heads) for part in parts)
    return dict(zip(SIDES, found, strict=True))
