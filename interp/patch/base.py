"""What every operation of a patch is: an edit of some categories, somewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from interp.denoiser.layers import Site
from interp.errors import InterpError
from interp.patch.where import Where
from interp.text.categories import POOLED, selected
from interp.text.prompt import Prompt

Embeds = Float[Tensor, "position channel"]
Reencode = Callable[[Prompt, str | int], Prompt]


@dataclass(frozen=True, repr=False)
class Operation:
    """An edit of some categories, somewhere.

    Subclasses define which positions they touch, and what they edit there: embeddings, keys of the
    softmax, or values; `guide` edits the denoiser's prediction. `USUAL` is the verb's default
    place, which is not printed.
    """

    EDITS: ClassVar[Literal["embeddings", "keys", "values", "logits", "prediction"]] = "embeddings"
    USUAL: ClassVar[Where] = Where()

    categories: tuple[str, ...]
    where: Where

    def __post_init__(self) -> None:
        selected(self.categories)  # raises for a category that does not exist

    @property
    def idle(self) -> bool:
        """Whether it is meant to touch nothing, so that touching nothing is not an error."""
        return False

    def whose(self, own: Prompt | None, beside: Prompt | None) -> Prompt | None:
        """The prompt whose positions count in a row: its own, or that of the paired row."""
        return own

    def positions(self, prompt: Prompt) -> Bool[Tensor, " position"]:
        """Which positions of the prompt it touches."""
        return prompt.among(self.categories)

    def reaches(self, prompt: Prompt) -> bool:
        """Whether it touches anything in the prompt."""
        pooled = POOLED in self.categories and prompt.pooled is not None
        return pooled or bool(self.positions(prompt).any())

    @property
    def donors(self) -> tuple[Prompt, ...]:
        """The other prompts whose embeddings it inserts."""
        return ()

    def given(self, donors: Sequence[Prompt]) -> Operation:
        """The same operation with the same number of other donors."""
        return self

    def at(
        self, site: Site, heads: Sequence[int], prompt: Prompt, width: int
    ) -> Bool[Tensor, "position head inner"]:
        """What it removes in one layer: keys, or some of the layer's `width` values."""
        reached = torch.zeros(site.heads, dtype=torch.bool)
        reached[list(heads)] = True
        places = rearrange(self.positions(prompt).cpu(), "position -> position 1 1")
        return places & rearrange(reached, "head -> 1 head 1")

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        """The embeddings after the operation, as a new tensor; unchanged if it edits none."""
        return embeds

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


def must_touch(operations: Iterable[Operation], touched: Set[Operation], ran: str) -> None:
    """Raise if an operation touched nothing, unless it was meant to.

    Example:
        >>> must_touch(zero("pad", steps=99).operations, set(), "1 runs of 50 steps")
        Traceback (most recent call last):
        interp.errors.InterpError: ...

    Raises:
        InterpError: naming the operations.
    """
    missed = [o for o in operations if o not in touched and not o.idle]
    if missed:
        raise InterpError(
            f"{' & '.join(map(repr, missed))} was on a pipeline while it ran.",
            f"It touched nothing in {ran}: no row has such positions where it applies.",
            "Check steps, layers, rows and categories; patch.on(pipe, strict=False) allows it.",
        )


def named(categories: Sequence[str]) -> str:
    return repr(categories[0]) if len(categories) == 1 else repr(tuple(categories))


def _short(value: object) -> str:
    if isinstance(value, Prompt):
        return repr(value.text)
    if isinstance(value, tuple) and value and isinstance(value[0], Prompt):
        return f"{len(value)} prompts"
    return repr(value)
