"""What patches do at one layer in one step, derived from what they do to each row.

A pure function of the rows' edits: nothing is hooked or written here (see `patched`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor

from interp.denoiser.layers import Site
from interp.errors import InterpError
from interp.patch.base import Operation
from interp.text.prompt import Prompt

SIDES = ("k", "v")
RowEdits = tuple[tuple[tuple[Operation, Prompt], ...], ...]
"""For every row of a batch, its operations, each with the prompt it edits."""


@dataclass(frozen=True)
class LayerPlan:
    """What happens at one layer in one step.

    Attributes:
        rows: the edits of every row.
        embeds: the edits of the embeddings, if all heads, keys and values share them.
        projected: otherwise, for keys and for values, the edits with their rows and heads.
        masked: the keys removed from the softmax.
        silent: the outputs of the value projection that are set to zero.
    """

    rows: RowEdits
    embeds: RowEdits | None
    projected: dict[str, list[tuple[RowEdits, Bool[Tensor, "row 1 head 1"]]]]
    masked: Bool[Tensor, "row position head 1"] | None
    silent: Bool[Tensor, "row position head inner"] | None

    @property
    def attenuates(self) -> bool:
        """Whether keys that stand out are turned down."""
        return any(operation.EDITS == "logits" for row in self.rows for operation, _ in row)

    @property
    def projects(self) -> bool:
        """Whether something happens to keys or values after they were projected."""
        return bool(self.projected) or self.silent is not None or self.attenuates


def plan_layer(
    site: Site,
    rows: RowEdits,
    heads: Mapping[Operation, Sequence[int]],
    width: int,
    device: torch.device,
) -> LayerPlan:
    """The plan of a layer.

    Example:
        >>> (pads,) = ip.zero("pad").operations
        >>> plan_layer(site, (((pads, a),), ()), {pads: (0, 1)}, 320, a.embeds.device)

    Args:
        rows: the edits that apply here.
        heads: where in this layer each operation applies.
        width: how many values per token the layer computes.
        device: where the layer runs.

    Raises:
        InterpError: a head would have no key left.
    """
    by_head: dict[str, dict[RowEdits, list[int]]] = {side: {} for side in SIDES}
    for side in SIDES:
        for head in range(site.heads):
            mine = tuple(
                tuple(
                    (operation, prompt)
                    for operation, prompt in row
                    if operation.EDITS == "embeddings"
                    and side in operation.where.side
                    and head in heads[operation]
                )
                for row in rows
            )
            by_head[side].setdefault(mine, []).append(head)
    masked = _taken_out("keys", site, rows, heads, width, device)
    if masked is not None and bool(masked.all(dim=1).any()):
        operation, prompt = next(e for row in rows for e in row if e[0].EDITS == "keys")
        raise InterpError(
            f"{operation!r} was asked for on {prompt!r}.",
            "A head would have no key left to attend to.",
            "Leave at least one category unmasked: 'sot' is always there.",
        )
    silent = _taken_out("values", site, rows, heads, width, device)
    if by_head["k"] == by_head["v"] and len(by_head["k"]) == 1:
        (shared,) = by_head["k"]
        return LayerPlan(rows, shared if any(shared) else None, {}, masked, silent)
    projected = {
        side: [
            (mine, _chosen(mine, places, site).to(device))
            for mine, places in by_head[side].items()
            if any(mine)
        ]
        for side in SIDES
    }
    return LayerPlan(rows, None, projected, masked, silent)


def _chosen(rows: RowEdits, heads: Sequence[int], site: Site) -> Bool[Tensor, "row 1 head 1"]:
    """The given heads in the rows that are edited."""
    chosen = torch.zeros(len(rows), 1, site.heads, 1, dtype=torch.bool)
    chosen[:, :, list(heads)] = rearrange(
        torch.tensor([bool(edits) for edits in rows]), "row -> row 1 1 1"
    )
    return chosen


def _taken_out(
    what: str,
    site: Site,
    rows: RowEdits,
    heads: Mapping[Operation, Sequence[int]],
    width: int,
    device: torch.device,
) -> Bool[Tensor, "row position head inner"] | None:
    """The keys or values removed from every row at one layer, or None."""
    found: dict[int, Tensor] = {}
    for row, (operation, prompt) in ((n, edit) for n, edits in enumerate(rows) for edit in edits):
        if what == operation.EDITS:
            out = operation.at(site, heads[operation], prompt, width)
            found[row] = found[row] | out if row in found else out
    if not found:
        return None
    none = torch.zeros_like(next(iter(found.values())))
    return torch.stack([found.get(row, none) for row in range(len(rows))]).to(device)


def bias(
    masked: Bool[Tensor, "row position head 1"],
    given: Tensor | None,
    attention: Any,
    hidden: Float[Tensor, "row query channel"],
) -> Float[Tensor, "rowhead 1 position"]:
    """The layer's additive mask, per row and head, with the masked keys at minus infinity."""
    bias = torch.zeros(masked.shape, dtype=hidden.dtype, device=hidden.device)
    bias = rearrange(
        bias.masked_fill(masked, float("-inf")), "row position head 1 -> (row head) 1 position"
    )
    if given is None:
        return bias
    return bias + attention.prepare_attention_mask(given, masked.shape[1], len(masked))
