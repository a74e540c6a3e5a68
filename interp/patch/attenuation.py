"""Attention that stands out, turned down: keys whose largest logit is far above the others'.

The one operation that depends on what attends: which keys stand out is known only when a layer has
its queries. In a UNet alone; GUARD (Zhao et al. 2026, arXiv 2603.00133) does it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.layers import Site
from interp.errors import InterpError
from interp.patch.base import Operation
from interp.patch.operations import OPERATIONS
from interp.patch.plan import RowEdits


@dataclass(frozen=True, repr=False)
class Attenuate(Operation):
    """The logits of keys that stand out, times a factor."""

    EDITS = "logits"

    factor: float = 1.0
    threshold: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.factor) and math.isfinite(self.threshold)):
            raise InterpError(
                f"{self!r} was asked for.",
                "Factor and threshold are finite numbers.",
                "GUARD's are attenuate(0.3, 0.1).",
            )


def factors(
    site: Site,
    rows: RowEdits,
    heads: Mapping[Operation, Sequence[int]],
    queries: Float[Tensor, "row query heads"],
    keys: Float[Tensor, "row position heads"],
    scale: float,
) -> Float[Tensor, "row position head 1"]:
    """What every key of a layer is multiplied by, and with it its logits.

    Example:
        >>> factors(site, rows, heads, layer.to_q(hidden), layer.to_k(text), layer.scale)

    Args:
        rows: the operations on every row; others than `Attenuate` count nothing.
        heads: where in this layer each operation applies.
    """
    split = "row place (head inner) -> row head place inner"
    q, k = (rearrange(part.float(), split, head=site.heads) for part in (queries, keys))
    found = torch.ones(*k.shape[:3], device=k.device)
    for row, edits in enumerate(rows):
        for operation, prompt in edits:
            if not isinstance(operation, Attenuate):
                continue
            logits = einsum(q[row], k[row], "head query inner, head key inner -> head query key")
            peak = reduce(logits * scale, "head query key -> head key", "max")
            # The first token, which every prompt has, is no part of what is usual.
            usual = peak[:, 1:]
            z = (peak - usual.mean(1, keepdim=True)) / usual.std(1, keepdim=True)
            out = (z > operation.threshold) & operation.positions(prompt).to(z.device)
            out[:, 0] = False
            chosen = list(heads[operation])
            found[row, chosen] *= torch.where(out[chosen], operation.factor, 1.0)
    return rearrange(found, "row head position -> row position head 1")


# Patches are read from JSON by the names in this table.
OPERATIONS["attenuate"] = Attenuate
