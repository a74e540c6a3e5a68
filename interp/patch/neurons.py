"""Silencing neurons: single outputs of a layer's value projection, set to zero.

The only operation that neither edits embeddings nor masks: a neuron's activation is one number per
token, computed from its embedding, and silencing sets it to zero. NeMo (Hintersdorf et al., NeurIPS
2024) finds memorization in a few neurons; see `attribute.find_neurons`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool
from torch import Tensor

from interp.denoiser.layers import Site
from interp.errors import InterpError
from interp.patch.base import Operation
from interp.patch.operations import OPERATIONS
from interp.patch.where import Where
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt


@dataclass(frozen=True, repr=False)
class Silence(Operation):
    """Outputs of the value projection set to zero, in the layers named by `neurons`."""

    EDITS = "values"
    USUAL: ClassVar[Where] = Where(side="v", uncond=True)

    neurons: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def at(
        self, site: Site, heads: Sequence[int], prompt: Prompt, width: int
    ) -> Bool[Tensor, "position head inner"]:
        """The outputs to set to zero.

        Raises:
            InterpError: the layer has no such neurons.
        """
        chosen = torch.zeros(width, dtype=torch.bool)
        numbers = list(dict(self.neurons).get(site.name, ()))
        if numbers and not 0 <= min(numbers) <= max(numbers) < width:
            raise InterpError(
                f"Cannot silence neurons {numbers} of layer {site.name}.",
                f"Its value projection has {width} outputs, counted from 0.",
                "Choose neurons of this model.",
            )
        chosen[numbers] = True
        split = rearrange(chosen, "(head inner) -> 1 head inner", head=site.heads)
        return split & super().at(site, heads, prompt, width)

    def __repr__(self) -> str:
        shown = [repr({layer: list(numbers) for layer, numbers in self.neurons})]
        if self.categories != CATEGORIES:
            shown.append(f"category={self.categories!r}")
        # The layers are those of the neurons and need not be printed twice.
        usual = Where(layers=self.where.layers, side="v", uncond=True)
        where = self.where.text(usual)
        return f"silence({', '.join([*shown, where] if where else shown)})"


# The names by which patches are read from JSON.
OPERATIONS["silence"] = Silence
