"""Silencing neurons: single outputs of a layer's value projection, put to zero.

The one operation that is no edit of embeddings and no mask: a neuron's activation is a number per
token, computed from the embeddings, and silencing it takes that number away. NeMo (Hintersdorf et
al., NeurIPS 2024) finds memorization in a few of them; see `attribute.find_neurons`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from interp.denoiser.layers import Site
from interp.errors import InterpError
from interp.patch.base import Operation, Reencode
from interp.patch.operations import OPERATIONS
from interp.patch.where import Where
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt


@dataclass(frozen=True, repr=False)
class Silence(Operation):
    """Outputs of the value projection at zero, in the layers that `neurons` names."""

    USUAL: ClassVar[Where] = Where(side="v", uncond=True)

    neurons: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def edit(
        self, embeds: Float[Tensor, "position channel"], prompt: Prompt, reencode: Reencode
    ) -> Float[Tensor, "position channel"]:
        return embeds

    def at(
        self, site: Site, heads: Sequence[int], prompt: Prompt, width: int
    ) -> Bool[Tensor, "position head inner"]:
        """What is put to zero at one layer, of `width` outputs.

        Raises:
            InterpError: for neurons that the layer has not.
        """
        chosen = torch.zeros(width, dtype=torch.bool)
        numbers = list(dict(self.neurons).get(site.name, ()))
        if numbers and not 0 <= min(numbers) <= max(numbers) < width:
            raise InterpError(
                f"Neurons {numbers} of layer {site.name} were to be silenced.",
                f"Its value projection has {width} of them, counted from 0.",
                "Name neurons of this model.",
            )
        chosen[numbers] = True
        split = rearrange(chosen, "(head inner) -> 1 head inner", head=site.heads)
        reached = torch.zeros(1, site.heads, 1, dtype=torch.bool)
        reached[:, list(heads)] = True
        places = rearrange(self.positions(prompt).cpu(), "position -> position 1 1")
        return split & reached & places

    def __repr__(self) -> str:
        shown = [repr({layer: list(numbers) for layer, numbers in self.neurons})]
        if self.categories != CATEGORIES:
            shown.append(f"category={self.categories!r}")
        # The layers are those of the neurons; saying them twice helps nobody.
        usual = Where(layers=self.where.layers, side="v", uncond=True)
        where = self.where.text(usual)
        return f"silence({', '.join([*shown, where] if where else shown)})"


# Patches are read from JSON by the names in this table.
OPERATIONS["silence"] = Silence


def silenced(
    site: Site, rows: Sequence[Sequence[Any]], width: int, device: torch.device
) -> Bool[Tensor, "row position head inner"] | None:
    """What is put to zero in every row at one layer, whose edits are given; None if nothing is.

    Example:
        >>> silenced(site, rows, attention.inner_kv_dim, text.device)
    """
    found: dict[int, Tensor] = {}
    for row, edit in ((row, edit) for row, edits in enumerate(rows) for edit in edits):
        if isinstance(edit.operation, Silence):
            heads = edit.owner.heads[edit.operation][site]
            mine = edit.operation.at(site, heads, edit.prompt, width)
            found[row] = found.get(row, torch.zeros_like(mine)) | mine
    if not found:
        return None
    none = torch.zeros_like(next(iter(found.values())))
    return torch.stack([found.get(row, none) for row in range(len(rows))]).to(device)
