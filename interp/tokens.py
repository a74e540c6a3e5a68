"""A prompt as the UNet sees it: 77 positions, each of one of four categories.

    sot | prompt ........... | eot | pad pad pad .................
    0   | 1 .. e-1           | e   | e+1 .. 76

Categories are found by position, never by id: SD 1 pads with the end-of-text token itself, SD 2
with `!`, which prompts also contain, and a prompt may spell out `<|endoftext|>`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from einops import rearrange, reduce
from jaxtyping import Float, Integer
from torch import Tensor

from interp.chips import chips
from interp.errors import InterpError

CATEGORIES = ("sot", "prompt", "eot", "pad")
SOT, PROMPT, EOT, PAD = range(len(CATEGORIES))
CLIP_EOS = 49407


def codes(categories: str | Sequence[str]) -> tuple[int, ...]:
    """The integer codes of one or several categories, in the toolkit's order, each once.

    Example:
        >>> codes(("pad", "eot"))
        (2, 3)

    Raises:
        InterpError: for a name that is no category, or for none at all.
    """
    names = (categories,) if isinstance(categories, str) else tuple(categories)
    unknown = [name for name in names if name not in CATEGORIES]
    if unknown or not names:
        raise InterpError(
            f"The token categories {names!r} were asked for.",
            f"There are {', '.join(CATEGORIES)}.",
            "Name one of them, or several as a tuple.",
        )
    return tuple(sorted({CATEGORIES.index(name) for name in names}))


def categories(
    ids: Integer[Tensor, "*batch position"], pad_id: int, eos_id: int = CLIP_EOS
) -> Integer[Tensor, "*batch position"]:
    """The category code of every position, from the ids alone.

    Where the pad token is the end-of-text token, the prompt ends at the first id of the trailing
    run of them; elsewhere at the last end-of-text id. Ids alone can not tell a prompt that ends by
    spelling out `<|endoftext|>` from a shorter one: `encode`, which sees the text, can.

    Example:
        >>> categories(torch.tensor([49406, 320, 2368, 49407, 49407, 49407]), pad_id=49407)
        tensor([0, 1, 1, 2, 3, 3])

    Raises:
        InterpError: if a row has no end-of-text token.
    """
    is_eos = ids == eos_id
    if not bool(reduce(is_eos, "... position -> ...", "any").all()):
        raise InterpError(
            "The categories of a row of token ids were asked for.",
            f"It holds no end-of-text token (id {eos_id}), so nothing says where its prompt ends.",
            "Pass the ids that the pipeline's tokenizer makes, special tokens included.",
        )
    position = torch.arange(ids.shape[-1], device=ids.device)
    if pad_id == eos_id:
        end = reduce((position + 1) * ~is_eos, "... position -> ... 1", "max")
    else:
        end = reduce(position * is_eos, "... position -> ... 1", "max")
    return around(position, end)


@dataclass(frozen=True, eq=False, repr=False)
class Prompt:
    """A prompt's text, ids, words, categories and embeddings; equal and hashable by content.

    Example:
        >>> a, b = encode(pipe, ["Antique Church Poster in Berlin", "a photo of a goat"])
        >>> a.e, a.counts
        (6, {'sot': 1, 'prompt': 5, 'eot': 1, 'pad': 70})
        >>> a.embeds[a.at("eot")]          # [1, channel]

    Attributes:
        text: the prompt as it was given, or decoded from its ids.
        ids: token ids of the primary encoder.
        words: the word that each position belongs to.
        category: code of every position, an index into `CATEGORIES`.
        embeds: what the UNet is given; both encoders' channels side by side in SDXL.
        pooled: SDXL's pooled embedding.
        ids_2: token ids of SDXL's second encoder.
        pad_ids: the pad token of each encoder.
        truncated: the end of the text that did not fit, or "".

    Raises:
        InterpError: if lengths disagree or an embedding is not finite.
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

    def __post_init__(self) -> None:
        lengths = {
            "ids": len(self.ids),
            "words": len(self.words),
            "category": len(self.category),
            "embeds": len(self.embeds),
        }
        if len(set(lengths.values())) > 1:
            raise InterpError(
                f"A prompt was made of {lengths}.",
                "Each must describe the same positions.",
                "Take ids, words, categories and embeddings from one encoding.",
            )
        given = [part for part in (self.embeds, self.pooled) if part is not None]
        if not all(bool(torch.isfinite(part.detach()).all()) for part in given):
            raise InterpError(
                f"The prompt {self.text!r} was given embeddings that are not all finite.",
                "They hold NaN or infinity.",
                "Encode in float32 or bfloat16, or look for the operation that overflowed.",
            )

    @cached_property
    def e(self) -> int:
        """The position of the end-of-text token that ends the prompt."""
        return int((self.category == EOT).nonzero()[0])

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many positions each category has: pads win sums by being many."""
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

    def at(self, names: str | Sequence[str]) -> Integer[Tensor, " chosen"]:
        """The positions of one or several categories, ascending."""
        wanted = torch.tensor(codes(names), device=self.category.device)
        return rearrange(torch.isin(self.category, wanted).nonzero(), "chosen 1 -> chosen")

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


def around(
    position: Integer[Tensor, " position"], end: Integer[Tensor, "*batch 1"]
) -> Integer[Tensor, "*batch position"]:
    """The category code of every position, from where each prompt ends.

    Example:
        >>> around(torch.arange(5), torch.tensor([2]))
        tensor([0, 1, 2, 3, 3])
    """
    # Each boundary that lies behind us adds one: past sot, at least eot, past eot.
    return (position > 0).long() + (position >= end).long() + (position > end).long()
