"""A prompt as the UNet sees it: 77 positions, each with its id, word, category and embedding.

Prompts are made by `encode`, immutable, and compared by content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from interp.errors import InterpError
from interp.text.categories import CATEGORIES, EOT, POOLED, SOT, codes, selected
from interp.text.html import chips


@dataclass(frozen=True, eq=False, repr=False)
class Prompt:
    """A prompt's text, ids, words, categories and embeddings; compared and hashed by content.

    Example:
        >>> a, b = encode(pipe, ["Antique Church Poster in Berlin", "a photo of a goat"])
        >>> a.e, a.counts
        (6, {'sot': 1, 'prompt': 5, 'eot': 1, 'pad': 70})
        >>> a.embeds[a.at("eot")]          # [1, channel]

    Attributes:
        text: the prompt as given, or decoded from its ids.
        ids: token ids of the primary encoder.
        words: the word that each position belongs to.
        category: the code of every position, an index into `CATEGORIES`.
        embeds: the UNet's input; for SDXL, both encoders' channels concatenated.
        pooled: SDXL's pooled embedding.
        ids_2: token ids of SDXL's second encoder.
        pad_ids: the pad token of each encoder.
        truncated: the end of the text that did not fit, or "".
        segments: for a transformer's prompt, the encoders in order, and how many positions each
            has: `(("clip", 77), ("t5", 256))`.

    Raises:
        InterpError: lengths disagree, or an embedding is not finite.
    """

    text: str
    ids: Integer[Tensor, " position"]
    words: tuple[str, ...]
    category: Integer[Tensor, " position"]
    embeds: Float[Tensor, "position channel"]
    pooled: Float[Tensor, " pooled"] | None = None
    ids_2: Integer[Tensor, " position"] | None = None
    pad_ids: tuple[int, ...] = ()
    truncated: str = ""
    segments: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        lengths = {
            "ids": len(self.ids),
            "words": len(self.words),
            "category": len(self.category),
            "embeds": len(self.embeds),
        }
        if len(set(lengths.values())) > 1:
            raise InterpError(
                f"A prompt was made with {lengths}.",
                "All of them must describe the same positions.",
                "Take ids, words, categories and embeddings from one encoding.",
            )
        given = [part for part in (self.embeds, self.pooled) if part is not None]
        if not all(bool(torch.isfinite(part.detach()).all()) for part in given):
            raise InterpError(
                f"The prompt {self.text!r} was given embeddings that are not all finite.",
                "They contain NaN or infinity.",
                "Encode in float32 or bfloat16, or look for the operation that overflowed.",
            )

    @cached_property
    def e(self) -> int:
        """The position of the end-of-text token that ends the prompt."""
        return int((self.category == EOT).nonzero()[0])

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many positions each category has: pads dominate sums by sheer number."""
        return {name: int((self.category == code).sum()) for code, name in enumerate(CATEGORIES)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ids, categories and embeddings, by which prompts are compared."""
        content = hashlib.sha256(str(self.embeds.dtype).encode())
        for values in (self.ids, self.category, self.embeds):
            content.update(str(tuple(values.shape)).encode())
            # Through bytes, because numpy does not know bfloat16.
            content.update(values.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return content.hexdigest()

    @cached_property
    def windows(self) -> tuple[slice, ...]:
        """The positions encoded together: one window, unless prompts were joined."""
        starts = (self.category == SOT).nonzero().flatten().tolist()
        if self.segments:
            return (slice(0, len(self.category)),)
        return tuple(map(slice, starts, [*starts[1:], len(self.category)]))

    def at(self, names: str | Sequence[str]) -> Integer[Tensor, " chosen"]:
        """The positions of one or several categories, ascending."""
        return rearrange(self.among(names).nonzero(), "chosen 1 -> chosen")

    def among(self, names: str | Sequence[str]) -> Bool[Tensor, " position"]:
        """Which positions belong to these categories: `prompt.among(("eot", "t5.pad"))`."""
        chosen = torch.zeros_like(self.category, dtype=torch.bool)
        for name in selected(names):
            segment, _, category = name.rpartition(".")
            if name == POOLED:
                continue
            here = self.category == codes(category)[0]
            chosen |= here & self._of(segment) if segment else here
        return chosen

    def apart(self, names: str | Sequence[str]) -> tuple[str, ...]:
        """The names split by encoder, if there are several: `pad` becomes `clip.pad, t5.pad`.

        Embeddings are aligned and copied only within one encoder.
        """
        known = [segment for segment, _ in self.segments]
        several = len(known) > 1
        return tuple(
            full
            for name in selected(names)
            if name != POOLED
            for full in (
                [f"{segment}.{name}" for segment in known]
                if several and "." not in name
                else [name]
            )
        )

    def beside(self, name: str) -> Bool[Tensor, " position"]:
        """The positions of the encoder in a name such as `"t5.eot"`; all positions for `"eot"`."""
        segment = name.rpartition(".")[0]
        return self._of(segment) if segment else torch.ones_like(self.category, dtype=torch.bool)

    def _of(self, segment: str) -> Bool[Tensor, " position"]:
        """Which positions belong to an encoder; without segments, all belong to CLIP."""
        parts = self.segments or (("clip", len(self.category)),)
        flags = [torch.full((length,), name == segment) for name, length in parts]
        return torch.cat(flags).to(self.category.device)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prompt) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        return f"Prompt({self.text!r}: {counts})"

    def _repr_html_(self) -> str:
        names = [CATEGORIES[code] for code in self.category.tolist()]
        note = f"cut off: {self.truncated}" if self.truncated else ""
        return chips(self.words, names, self.ids.tolist(), note)
