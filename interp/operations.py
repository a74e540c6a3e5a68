"""The operations a patch is made of, each a pure edit of one row's embeddings.

Every operation but `Mask` is a function of a prompt's 77 embeddings. That is enough for all sites:
keys and values are linear in the embeddings, so patching one head's keys means projecting edited
embeddings and keeping that head (see `board`). Use the verbs of `patch`, not these classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from interp.errors import InterpError
from interp.tokens import CATEGORIES, EOT, SOT, Prompt, codes
from interp.where import Where

Align = Literal["position", "offset", "nearest", "mean"]
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
        shown = [_names(self.categories)]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("categories", "where") and value != field.default:
                shown.append(f"{field.name}={_short(value)}")
        return self._call(shown)

    def _call(self, shown: Sequence[str]) -> str:
        where = self.where.text(self.USUAL)
        return f"{type(self).__name__.lower()}({', '.join([*shown, where] if where else shown)})"


@dataclass(frozen=True, repr=False)
class Zero(Operation):
    """The zero vector at a fraction of the positions, the first ones of each category."""

    fraction: float = 1.0

    @property
    def idle(self) -> bool:
        return self.fraction == 0

    def positions(self, prompt: Prompt) -> Bool[Tensor, " position"]:
        chosen = torch.zeros_like(prompt.category, dtype=torch.bool)
        for code in codes(self.categories):
            places = prompt.at(CATEGORIES[code])
            chosen[places[: int(len(places) * self.fraction)]] = True
        return chosen

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        return self._put(embeds, prompt, torch.zeros_like(embeds))


@dataclass(frozen=True, repr=False)
class Copy(Operation):
    """The prompt's own embedding of another category, or its mean."""

    source: str = "eot"
    reduce: Literal["mean"] | None = None

    def positions(self, prompt: Prompt) -> Bool[Tensor, " position"]:
        return super().positions(prompt) & bool(prompt.counts[self.source])

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        source = embeds[prompt.at(self.source).to(embeds.device)]
        if self.reduce is None and len(source) > 1:
            raise InterpError(
                f"{self!r} was asked for on {prompt!r}.",
                f"It has {len(source)} embeddings of category {self.source!r}, not one.",
                "Say reduce='mean'.",
            )
        if not len(source):
            return embeds
        new = reduce(source, "position channel -> 1 channel", "mean") if len(source) > 1 else source
        return self._put(embeds, prompt, new)

    def __repr__(self) -> str:
        reduced = [] if self.reduce is None else [f"reduce={self.reduce!r}"]
        return self._call([repr(self.source), f"to={_names(self.categories)}", *reduced])


@dataclass(frozen=True, repr=False)
class Swap(Operation):
    """Another prompt's embeddings of the same category."""

    donor: Prompt
    align: Align = "position"

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        fits(self, embeds, self.donor)
        new = embeds
        for code in codes(self.categories):
            target, source = prompt.at(CATEGORIES[code]), self.donor.at(CATEGORIES[code])
            if not len(target):
                continue
            if self.align == "mean":
                filling = _mean(self.donor, CATEGORIES[code], self)
            else:
                filling = self.donor.embeds[self._aligned(code, target, source, prompt)]
            # index_put out of place: the given embeddings are shared by all layers.
            new = new.index_put((target.to(embeds.device),), filling.to(embeds))
        return new

    def _aligned(
        self,
        code: int,
        target: Integer[Tensor, " chosen"],
        source: Integer[Tensor, " there"],
        prompt: Prompt,
    ) -> Integer[Tensor, " chosen"]:
        """The donor's position for each target position."""
        have, want = len(source), len(target)
        device = self.donor.embeds.device
        if have and code in (SOT, EOT):
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
        kind = CATEGORIES[code]
        held = f"at {int(source[0])} to {int(source[-1])}" if have else "nowhere"
        raise InterpError(
            f"The {kind} embeddings of {self.donor!r} were to replace those of {prompt!r}, "
            f"aligned by {self.align}.",
            f"The prompt has {want} of them at {int(target[0])} to {int(target[-1])}, the donor "
            f"{have}, {held}.",
            "Choose align='nearest' or 'mean', or a donor with enough of them."
            if have
            else "Choose a donor that has some.",
        )


@dataclass(frozen=True, repr=False)
class Mean(Operation):
    """The mean embedding of the category, over prompts."""

    over: tuple[Prompt, ...] = ()

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        new = embeds
        for code in codes(self.categories):
            target = prompt.at(CATEGORIES[code])
            for donor in self.over:
                fits(self, embeds, donor)
            means = [_mean(donor, CATEGORIES[code], self) for donor in self.over]
            filling = reduce(means, "prompt 1 channel -> 1 channel", "mean")
            new = new.index_put((target.to(embeds.device),), filling.to(embeds))
        return new


@dataclass(frozen=True, repr=False)
class Repad(Operation):
    """The pads of the prompt encoded again with another pad token."""

    USUAL = Where(uncond=True)
    token: str | int = "!"

    def __repr__(self) -> str:
        return self._call([repr(self.token)])

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        return self._put(embeds, prompt, reencode(prompt, self.token).embeds)


@dataclass(frozen=True, repr=False)
class Mask(Operation):
    """The keys taken out of the softmax; the embeddings are left alone."""

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        return embeds


@dataclass(frozen=True, repr=False)
class Scale(Operation):
    """The embeddings times a factor; on the key side, the logits times it."""

    USUAL = Where(side="k")
    factor: float = 1.0

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        return self._put(embeds, prompt, embeds * self.factor)


@dataclass(frozen=True, repr=False)
class Noise(Operation):
    """Gaussian noise added, the same at every layer, step and row."""

    std: float = 0.0
    seed: int = 0

    def edit(self, embeds: Embeds, prompt: Prompt, reencode: Reencode) -> Embeds:
        # Drawn for all positions on the CPU: the same numbers whatever the categories and device.
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(embeds.shape, generator=generator) * self.std
        return self._put(embeds, prompt, embeds + drawn.to(embeds))


OPERATIONS: dict[str, type[Operation]] = {
    kind.__name__.lower(): kind for kind in (Zero, Copy, Swap, Mean, Repad, Mask, Scale, Noise)
}


def fits(operation: Operation, embeds: Embeds, donor: Prompt) -> None:
    """Raise if a donor's embeddings can not stand where these stand.

    Raises:
        InterpError: for embeddings of another size.
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


def _names(categories: Sequence[str]) -> str:
    return repr(categories[0]) if len(categories) == 1 else repr(tuple(categories))


def _short(value: object) -> str:
    if isinstance(value, Prompt):
        return repr(value.text)
    if isinstance(value, tuple) and value and isinstance(value[0], Prompt):
        return f"{len(value)} prompts"
    return repr(value)
