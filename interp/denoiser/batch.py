"""What each row of a UNet batch is: unconditional or conditional, and of which prompt.

Stock pipelines order a batch as [unconditional..., conditional...] and repeat each prompt for its
images inside each half. A prompt given as text is recognised by its embeddings, which must equal,
number for number, something that the text encoder was heard to say; so neither the order of the
encoder's calls nor encodings that were never used can mislead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor

from interp.errors import InterpError
from interp.text.categories import CATEGORIES
from interp.text.encoding import encoders, from_ids
from interp.text.prompt import Prompt


@dataclass(frozen=True)
class Heard:
    """One call of the text encoders: the ids they read, and the states the primary one may have
    been read at."""

    ids: Integer[Tensor, "row position"]
    ids_2: Integer[Tensor, "row position"] | None
    states: tuple[Float[Tensor, "row position channel"], ...]


@dataclass(frozen=True)
class Rows:
    """The rows of one UNet batch.

    Attributes:
        prompts: the prompt of every row; None for unconditional rows that nobody described.
        uncond: how many rows, all at the front, are unconditional: none, or half.
        images: how many conditional rows in succession are images of one prompt.
    """

    prompts: tuple[Prompt | None, ...]
    uncond: int
    images: int

    @cached_property
    def category(self) -> Integer[Tensor, "row position"]:
        """Category codes of every row; -1 where nobody described the row."""
        length = len(next(prompt for prompt in self.prompts if prompt is not None).category)
        unknown = torch.full((length,), -1)
        rows = [unknown if prompt is None else prompt.category for prompt in self.prompts]
        return torch.stack(rows)

    @cached_property
    def members(self) -> Float[Tensor, "row position category"]:
        """1 where a position is of a category: what sums over categories are made with."""
        codes = torch.arange(len(CATEGORIES))
        return (rearrange(self.category, "row position -> row position 1") == codes).float()

    @cached_property
    def ids(self) -> tuple[tuple[int, ...] | None, ...]:
        """Token ids of every row, by which rows are compared."""
        return tuple(None if p is None else tuple(p.ids.tolist()) for p in self.prompts)


def from_tokens(
    pipe: Any,
    tokens: Sequence[Prompt],
    negative: Sequence[Prompt] | None,
    heard: Sequence[Heard],
    text: Float[Tensor, "row position channel"],
    guided: bool,
) -> Rows:
    """The rows of a batch whose conditional prompts the caller described.

    Example:
        >>> from_tokens(pipe, [a, b], None, [], embeds, guided=True).images
        4

    Raises:
        InterpError: if the batch does not hold these prompts a whole number of times.
    """
    total, count = len(text), len(tokens) * (1 + guided)
    if not count or total % count:
        raise InterpError(
            f"{len(tokens)} prompts were described for a UNet batch of {total} rows.",
            f"With guidance {'on' if guided else 'off'} it must be a multiple of {count}, not 0.",
            "Describe each conditional prompt once, in order; where the UNet is called directly, "
            "say guided=True or False.",
        )
    for prompt in (*tokens, *(negative or ())):
        if prompt.embeds.shape != text.shape[1:]:
            raise InterpError(
                f"{prompt!r} was said to be a row of this batch.",
                f"Its embeddings are {tuple(prompt.embeds.shape)}, the batch's rows "
                f"{tuple(text.shape[1:])}.",
                "Encode it with this pipeline.",
            )
    half = total // 2 if guided else 0
    images = total // count
    cond = [prompt for prompt in tokens for _ in range(images)]
    if negative is not None:
        if half % len(negative):
            raise InterpError(
                f"{len(negative)} negative prompts were described.",
                f"The batch has {half} unconditional rows.",
                "Describe one for all, or one per prompt.",
            )
        repeated = [prompt for prompt in negative for _ in range(half // len(negative))]
        return Rows((*repeated, *cond), half, images)
    return Rows((*_unconditional(pipe, heard, text[:half]), *cond), half, images)


def from_heard(
    pipe: Any,
    heard: Sequence[Heard],
    text: Float[Tensor, "row position channel"],
    guided: bool,
) -> Rows:
    """The rows of a batch, recognised by what the text encoder said.

    Example:
        >>> from_heard(pipe, heard, embeds, guided=True).prompts[-1].text
        'a photo of a goat'

    Raises:
        InterpError: if a conditional row is none of the encodings heard.
    """
    total = len(text)
    half = total // 2 if guided else 0
    found = _recognise(heard, text)
    missing = [row for row in range(half, total) if found[row] is None]
    if missing or (guided and total % 2):
        raise InterpError(
            f"The prompts of a UNet batch of {total} rows were to be recognised.",
            f"Rows {missing} are none of the {len(heard)} encodings that were made meanwhile, "
            "because the pipeline was called with prompt_embeds, or encoded before.",
            "Say what they are: tokens=interp.encode(pipe, prompts).",
        )
    cond = _named(pipe, heard, found[half:], text[half:])
    uncond = _unconditional(pipe, heard, text[:half])
    return Rows((*uncond, *cond), half, _images(heard, found[half:]))


def _recognise(
    heard: Sequence[Heard], text: Float[Tensor, "row position channel"]
) -> list[tuple[int, int] | None]:
    """For every row, the encoder call and the place in it that said exactly this."""
    found: list[tuple[int, int] | None] = [None] * len(text)
    text = text.detach()
    for call in range(len(heard)):
        for state in heard[call].states:
            if state.shape[1] != text.shape[1] or state.shape[2] > text.shape[2]:
                continue
            said = state.detach().to(text)
            shown = text[..., : said.shape[-1]]
            # The last position depends on the whole prompt, so comparing it first is enough.
            last = rearrange(shown[:, -1], "row channel -> row 1 channel") == said[:, -1]
            for row, place in last.all(dim=-1).nonzero().tolist():
                if found[row] is None and torch.equal(shown[row], said[place]):
                    found[row] = (call, place)
    return found


def _named(
    pipe: Any,
    heard: Sequence[Heard],
    found: Sequence[tuple[int, int] | None],
    text: Float[Tensor, "row position channel"],
) -> list[Prompt | None]:
    """The prompts of recognised rows; rows of one encoding share one `Prompt`."""
    known: dict[tuple[int, int] | None, Prompt | None] = {None: None}
    for key, row in zip(found, text, strict=True):
        if key is not None and key not in known:
            call, place = key
            ids, second = heard[call].ids[place].cpu(), heard[call].ids_2
            second = None if second is None else second[place].cpu()
            known[key] = from_ids(pipe, ids, row.detach(), second)
    return [known[key] for key in found]


def _images(heard: Sequence[Heard], found: Sequence[tuple[int, int] | None]) -> int:
    """Images per prompt: as many as the rows have of each of the prompts encoded together."""
    call, _ = found[0]  # type: ignore[misc]
    images, rest = divmod(len(found), len(heard[call].ids))
    grouped = rest == 0 and all(
        found[start] == key
        for start in range(0, len(found), max(images, 1))
        for key in found[start : start + images]
    )
    return images if grouped else 1


def _unconditional(
    pipe: Any, heard: Sequence[Heard], text: Float[Tensor, "row position channel"]
) -> list[Prompt | None]:
    """The prompts of unconditional rows; SDXL's default, all zeros, has the layout of ""."""
    named = _named(pipe, heard, _recognise(heard, text), text)
    return [
        _empty(pipe, row) if prompt is None and not bool(row.any()) else prompt
        for prompt, row in zip(named, text, strict=True)
    ]


def _empty(pipe: Any, row: Float[Tensor, "position channel"]) -> Prompt:
    first, *second = (
        torch.tensor(tokenizer("", padding="max_length", max_length=len(row)).input_ids)
        for tokenizer, _ in encoders(pipe)
    )
    return from_ids(pipe, first, row.detach(), *second)
