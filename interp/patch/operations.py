"""The operations a patch is made of, each a pure edit of one row's embeddings.

Every operation but `Mask` is a function of a prompt's 77 embeddings. That covers every site: keys
and values are linear in the embeddings, so patching one head's keys means projecting the edited
embeddings and keeping only that head (see `patched`). Use the `verbs`, not these classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal, get_args

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from interp.errors import InterpError
from interp.patch.base import Embeds, Operation, Reencode, named
from interp.patch.where import Where
from interp.text.categories import selected
from interp.text.prompt import Prompt

Align = Literal["position", "offset", "nearest", "mean"]


@dataclass(frozen=True, repr=False)
class Zero(Operation):
    """The zero vector at the first positions of each category and window, a fraction of them."""

    fraction: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.fraction <= 1:
            raise InterpError(
                f"{self!r} was asked for.", "A fraction is between 0 and 1.", "Use 0.7 for 70 %."
            )

    @property
    def idle(self) -> bool:
        return self.fraction == 0

    def positions(self, prompt: Prompt) -> Bool[Tensor, " position"]:
        chosen = torch.zeros_like(prompt.category, dtype=torch.bool)
        for name, window in product(prompt.apart(self.categories), prompt.windows):
            places = window.start + prompt.among(name)[window].nonzero().flatten()
            chosen[places[: int(len(places) * self.fraction)]] = True
        return chosen

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        return self._put(embeds, prompt, torch.zeros_like(embeds))


@dataclass(frozen=True, repr=False)
class Copy(Operation):
    """The prompt's own embedding of another category, or its mean."""

    source: str = "eot"
    reduce: Literal["mean"] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        selected(self.source)
        _known("reduce", self.reduce, (None, "mean"))

    def positions(self, prompt: Prompt) -> Bool[Tensor, " position"]:
        chosen = torch.zeros_like(prompt.category, dtype=torch.bool)
        for origin in prompt.apart(self.source):
            if prompt.among(origin).any():
                chosen |= prompt.beside(origin)
        return super().positions(prompt) & chosen

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        new = embeds
        for origin in prompt.apart(self.source):
            source = embeds[prompt.at(origin).to(embeds.device)]
            if self.reduce is None and len(source) > 1:
                raise InterpError(
                    f"{self!r} was asked for on {prompt!r}.",
                    f"It has {len(source)} embeddings of category {origin!r}, not one.",
                    "Use reduce='mean'.",
                )
            if len(source):
                mean = reduce(source, "position channel -> 1 channel", "mean")
                filled = self._put(new, prompt, mean if len(source) > 1 else source)
                here = rearrange(prompt.beside(origin), "position -> position 1")
                new = torch.where(here.to(embeds.device), filled, new)
        return new

    def __repr__(self) -> str:
        reduced = [] if self.reduce is None else [f"reduce={self.reduce!r}"]
        return self._call([repr(self.source), f"to={named(self.categories)}", *reduced])


@dataclass(frozen=True, repr=False)
class Swap(Operation):
    """Another prompt's embeddings of the same category."""

    donor: Prompt
    align: Align = "position"

    def __post_init__(self) -> None:
        super().__post_init__()
        _known("align", self.align, get_args(Align))

    @property
    def donors(self) -> tuple[Prompt, ...]:
        return (self.donor,)

    def given(self, donors: Sequence[Prompt]) -> Operation:
        return replace(self, donor=donors[0])

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        fits(self, embeds, self.donor)
        new = embeds
        for name in prompt.apart(self.categories):
            target, source = prompt.at(name), self.donor.at(name)
            if not len(target):
                continue
            if self.align == "mean":
                filling = _mean(self.donor, name, self)
            else:
                filling = self.donor.embeds[self._aligned(name, target, source, prompt)]
            # index_put out of place: the given embeddings are shared by all layers.
            new = new.index_put((target.to(embeds.device),), filling.to(embeds))
        return new

    def _aligned(
        self,
        name: str,
        target: Integer[Tensor, " chosen"],
        source: Integer[Tensor, " there"],
        prompt: Prompt,
    ) -> Integer[Tensor, " chosen"]:
        """The donor's position for each target position."""
        have, want = len(source), len(target)
        device = self.donor.embeds.device
        if have and name.rpartition(".")[2] in ("sot", "eot"):
            return source.to(device)
        if have and self.align == "nearest":
            return target.to(source.device).clamp(int(source[0]), int(source[-1])).to(device)
        if self.align == "offset" and have >= want:
            return source[:want].to(device)
        if (
            self.align == "position"
            and have
            and source[0] <= target[0]
            and target[-1] <= source[-1]
        ):
            return target.to(device)
        held = f"at {int(source[0])} to {int(source[-1])}" if have else "nowhere"
        raise InterpError(
            f"Cannot put the {name} embeddings of {self.donor!r} in place of those of {prompt!r}, "
            f"aligned by {self.align}.",
            f"The prompt has {want} of them at {int(target[0])} to {int(target[-1])}, the donor "
            f"{have}, {held}.",
            "Use align='nearest' or 'mean', or a donor with enough of them."
            if have
            else "Choose a donor that has some.",
        )


@dataclass(frozen=True, repr=False)
class Mean(Operation):
    """The mean embedding of the category, over prompts."""

    over: tuple[Prompt, ...] = ()

    @property
    def donors(self) -> tuple[Prompt, ...]:
        return self.over

    def given(self, donors: Sequence[Prompt]) -> Operation:
        return replace(self, over=tuple(donors))

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        new = embeds
        for name in prompt.apart(self.categories):
            target = prompt.at(name)
            if not len(target):
                continue
            for donor in self.over:
                fits(self, embeds, donor)
            means = [_mean(donor, name, self) for donor in self.over]
            filling = reduce(means, "prompt 1 channel -> 1 channel", "mean")
            new = new.index_put((target.to(embeds.device),), filling.to(embeds))
        return new


@dataclass(frozen=True, repr=False)
class Repad(Operation):
    """The pads of the prompt, encoded again with another pad token."""

    USUAL = Where(uncond=True)
    token: str | int = "!"

    def __repr__(self) -> str:
        return self._call([repr(self.token)])

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        return self._put(embeds, prompt, reencode(prompt, self.token).embeds)


@dataclass(frozen=True, repr=False)
class Mask(Operation):
    """Keys removed from the softmax; the embeddings are left alone."""

    EDITS = "keys"
    paired: bool = False

    def whose(self, own: Prompt | None, beside: Prompt | None) -> Prompt | None:
        return beside if self.paired else own


@dataclass(frozen=True, repr=False)
class Scale(Operation):
    """The embeddings times a factor; on the key side, this multiplies the logits."""

    USUAL = Where(side="k")
    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.factor):
            raise InterpError(
                f"{self!r} was asked for.",
                "The factor must be a finite number.",
                "Use mask to remove keys from the softmax.",
            )

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        return self._put(embeds, prompt, embeds * self.factor)


@dataclass(frozen=True, repr=False)
class Noise(Operation):
    """Added Gaussian noise, the same at every layer, step and row."""

    std: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.std >= 0 and math.isfinite(self.std)):
            raise InterpError(
                f"{self!r} was asked for.",
                "A standard deviation is finite and not negative.",
                "For scale: CLIP's embeddings have a standard deviation near 1.",
            )

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        # Drawn on the CPU for all positions: the same numbers for all categories and devices.
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(embeds.shape, generator=generator) * self.std
        return self._put(embeds, prompt, embeds + drawn.to(embeds))


OPERATIONS: dict[str, type[Operation]] = {
    kind.__name__.lower(): kind for kind in (Zero, Copy, Swap, Mean, Repad, Mask, Scale, Noise)
}


def fits(operation: Operation, embeds: Embeds, donor: Prompt) -> None:
    """Raise if a donor's embeddings can not replace these.

    Raises:
        InterpError: the shapes differ.
    """
    if donor.embeds.shape != embeds.shape:
        raise InterpError(
            f"{operation!r} was asked for on embeddings of shape {tuple(embeds.shape)}.",
            f"The donor's have shape {tuple(donor.embeds.shape)}.",
            "Encode the donor with the same pipeline.",
        )


def _mean(donor: Prompt, category: str, operation: Operation) -> Float[Tensor, "1 channel"]:
    places = donor.at(category).to(donor.embeds.device)
    if not len(places):
        raise InterpError(
            f"{operation!r} was asked for.",
            f"{donor!r} has no {category} embeddings.",
            "Choose donors that have some.",
        )
    return reduce(donor.embeds[places], "position channel -> 1 channel", "mean")


def _known(name: str, value: object, known: Sequence[object]) -> None:
    if value not in known:
        raise InterpError(
            f"{name}={value!r} was asked for.",
            f"{name} is one of {', '.join(map(repr, known))}.",
            "Choose one of them.",
        )
