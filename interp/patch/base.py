"""What every operation of a patch is: an edit of the embeddings of some categories, somewhere."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from interp.patch.where import Where
from interp.text.categories import codes
from interp.text.prompt import Prompt

Embeds = Float[Tensor, "position channel"]
Reencode = Callable[[Prompt, str | int], Prompt]


@dataclass(frozen=True, repr=False)
class Operation(ABC):
    """An edit of the embeddings of some categories, somewhere.

    Subclasses say which positions they touch and what the embeddings become. `USUAL` is where the
    verb applies if nothing is said; printing leaves it out.
    """

    USUAL: ClassVar[Where] = Where()

    categories: tuple[str, ...]
    where: Where

    def __post_init__(self) -> None:
        codes(self.categories)  # raises for a category that does not exist

    @property
    def idle(self) -> bool:
        """Whether it was asked to touch nothing, so that touching nothing is no mistake."""
        return False

    def positions(self, prompt: Prompt) -> Bool[Tensor, " position"]:
        """Which positions of the prompt it touches."""
        wanted = torch.tensor(codes(self.categories), device=prompt.category.device)
        return torch.isin(prompt.category, wanted)

    @abstractmethod
    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        """The embeddings after the operation; the given ones stay as they are."""

    def _put(
        self, embeds: Embeds, prompt: Prompt, new: Float[Tensor, "#position channel"]
    ) -> Embeds:
        touched = rearrange(self.positions(prompt), "position -> position 1").to(embeds.device)
        return torch.where(touched, new.to(embeds), embeds)

    def __repr__(self) -> str:
        shown = [named(self.categories)]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("categories", "where") and value != field.default:
                shown.append(f"{field.name}={_short(value)}")
        return self._call(shown)

    def _call(self, shown: Sequence[str]) -> str:
        where = self.where.text(self.USUAL)
        return f"{type(self).__name__.lower()}({', '.join([*shown, where] if where else shown)})"


def named(categories: Sequence[str]) -> str:
    return repr(categories[0]) if len(categories) == 1 else repr(tuple(categories))


def _short(value: object) -> str:
    if isinstance(value, Prompt):
        return repr(value.text)
    if isinstance(value, tuple) and value and isinstance(value[0], Prompt):
        return f"{len(value)} prompts"
    return repr(value)
