"""What each row of a UNet batch is: unconditional or conditional, and of which prompt.

Stock pipelines order a batch as [unconditional..., conditional...] and repeat each prompt for its
images inside each half. A prompt given as text is recognised by its embeddings, which must equal,
number for number, something that the text encoder returned; so neither the order of its calls nor
encodings that were never used can mislead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor, nn

from interp.denoiser.hooks import Hooks
from interp.errors import InterpError
from interp.text.categories import CATEGORIES
from interp.text.encoding import ASIDE, encoders, from_ids
from interp.text.prompt import Prompt

Text = Float[Tensor, "row position channel"]


@dataclass(frozen=True)
class Encoded:
    """One call of the text encoders: the ids they read, and every state of the primary one that a
    pipeline may take as its embeddings."""

    ids: Integer[Tensor, "row position"]
    ids_2: Integer[Tensor, "row position"] | None
    states: tuple[Text, ...]


@dataclass(frozen=True, eq=False)
class BatchRows:
    """The rows of one UNet batch.

    Attributes:
        prompts: the prompt of every row; None for unconditional rows whose prompts are unknown.
        uncond: how many rows, all at the front, are unconditional: none, or half.
        images: how many conditional rows in succession are images of one prompt.
    """

    prompts: tuple[Prompt | None, ...]
    uncond: int
    images: int

    @cached_property
    def category(self) -> Integer[Tensor, "row position"]:
        """Category codes of every row; -1 where the prompt is unknown."""
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


class RowReader:
    """Knows what each row of the batch is, during every UNet call.

    Example:
        >>> with Hooks() as hooks:
        ...     reader = RowReader(pipe, hooks)
        ...     pipe("a photo of a goat")
        >>> reader.batch.prompts[-1].text
        'a photo of a goat'

    Args:
        tokens: the conditional prompts; None recognises prompts that are given as text.
        negative: the unconditional prompts, where the pipeline does not encode them itself.
        guided: whether batches have unconditional rows; None asks the pipeline.
        denoiser: a ControlNet whose batches are to be read instead of the UNet's.

    Add hooks that need the rows after it. The UNet call raises an `InterpError` if a batch does not
    hold the described prompts a whole number of times, or a conditional row is not recognised.
    """

    def __init__(
        self,
        pipe: Any,
        hooks: Hooks,
        tokens: Prompt | Sequence[Prompt] | None = None,
        negative: Prompt | Sequence[Prompt] | None = None,
        guided: bool | None = None,
        denoiser: nn.Module | None = None,
    ) -> None:
        self.pipe, self.guided = pipe, guided
        self.tokens = [tokens] if isinstance(tokens, Prompt) else tokens
        self.negative = [negative] if isinstance(negative, Prompt) else negative
        self.rows: BatchRows | None = None
        self._encodings: list[Encoded] = []
        self._used = False
        self._text: Any = None
        if tokens is None or getattr(pipe, "text_encoder", None) is not None:
            primary, *second = (encoder for _, encoder in encoders(pipe))
            hooks.after(primary, self._after_encoder)
            for encoder in second:
                hooks.after(encoder, self._after_second_encoder)
        hooks.before(pipe.unet if denoiser is None else denoiser, self._read)

    @property
    def batch(self) -> BatchRows:
        """The rows of the UNet call that is under way."""
        if self.rows is None:
            raise RuntimeError("RowReader.batch is known only during a UNet call")
        return self.rows

    def _after_encoder(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if ASIDE.get():
            return
        ids = args[0] if args else kwargs["input_ids"]
        if self._used:
            self._encodings, self._used = [], False
        # SDXL reads an earlier layer than SD, and clip_skip an earlier one still.
        states = [*(getattr(output, "hidden_states", None) or ()), output.get("last_hidden_state")]
        self._encodings.append(Encoded(ids, None, tuple(s for s in states if s is not None)))

    def _after_second_encoder(
        self, module: nn.Module, args: tuple, kwargs: dict, output: Any
    ) -> None:
        # SDXL's encoders are called one after the other, the primary one first.
        if not ASIDE.get() and self._encodings:
            ids = args[0] if args else kwargs["input_ids"]
            self._encodings[-1] = replace(self._encodings[-1], ids_2=ids)

    def _read(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        text = kwargs["encoder_hidden_states"] if len(args) < 3 else args[2]
        if text is self._text:
            return
        guided = self.guided
        if guided is None:
            guided = bool(getattr(self.pipe, "do_classifier_free_guidance", False))
        identify = self._recognised if self.tokens is None else self._described
        self.rows = identify(text, guided)
        self._text, self._used = text, True

    def _described(self, text: Text, guided: bool) -> BatchRows:
        """The rows of a batch whose conditional prompts the caller described."""
        tokens, negative = self.tokens or (), self.negative
        total, count = len(text), len(tokens) * (1 + guided)
        if not count or total % count:
            raise InterpError(
                f"{len(tokens)} prompts were described for a UNet batch of {total} rows.",
                f"With guidance {'on' if guided else 'off'} it must be a multiple of {count}, "
                "not 0.",
                "Describe each conditional prompt once, in order; where the UNet is called "
                "directly, say guided=True or False.",
            )
        for prompt in (*tokens, *(negative or ())):
            if prompt.embeds.shape != text.shape[1:]:
                raise InterpError(
                    f"{prompt!r} can not be a row of this UNet batch.",
                    f"Its embeddings are {tuple(prompt.embeds.shape)}, the batch's rows "
                    f"{tuple(text.shape[1:])}.",
                    "Encode it with this pipeline.",
                )
        half, images = (total // 2 if guided else 0), total // count
        cond = [prompt for prompt in tokens for _ in range(images)]
        if negative is None:
            uncond = _unconditional(self.pipe, self._encodings, text[:half])
        elif half % len(negative):
            raise InterpError(
                f"{len(negative)} negative prompts were described.",
                f"The batch has {half} unconditional rows.",
                "Describe one for all, or one per prompt.",
            )
        else:
            uncond = [prompt for prompt in negative for _ in range(half // len(negative))]
        return BatchRows((*uncond, *cond), half, images)

    def _recognised(self, text: Text, guided: bool) -> BatchRows:
        """The rows of a batch, recognised by what the text encoder returned."""
        encodings, total = self._encodings, len(text)
        half = total // 2 if guided else 0
        found = _recognise(encodings, text)
        missing = [row for row in range(half, total) if found[row] is None]
        if missing or (guided and total % 2):
            raise InterpError(
                f"Cannot tell which prompts a UNet batch of {total} rows holds.",
                f"Rows {missing} match none of the {len(encodings)} encodings since the last run, "
                "because the pipeline was called with prompt_embeds, or they were encoded earlier.",
                "Pass the prompts: tokens=interp.encode(pipe, prompts).",
            )
        cond = _named(self.pipe, encodings, found[half:], text[half:])
        uncond = _unconditional(self.pipe, encodings, text[:half])
        return BatchRows((*uncond, *cond), half, _images(encodings, found[half:]))


def _recognise(encodings: Sequence[Encoded], text: Text) -> list[tuple[int, int] | None]:
    """For every row, the encoder call and the place in it that returned these embeddings."""
    found: list[tuple[int, int] | None] = [None] * len(text)
    text = text.detach()
    for call in range(len(encodings)):
        for state in encodings[call].states:
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
    encodings: Sequence[Encoded],
    found: Sequence[tuple[int, int] | None],
    text: Text,
    refuse: bool = True,
) -> list[Prompt | None]:
    """The prompts of recognised rows; rows of one encoding share one `Prompt`.

    Positions that SDXL's encoders see differently are refused, or leave their prompt unknown.
    """
    known: dict[tuple[int, int] | None, Prompt | None] = {None: None}
    for key, row in zip(found, text, strict=True):
        if key is not None and key not in known:
            call, place = key
            ids, second = encodings[call].ids[place].cpu(), encodings[call].ids_2
            second = None if second is None else second[place].cpu()
            try:
                known[key] = from_ids(pipe, ids, row.detach(), second)
            except InterpError:
                if refuse:
                    raise
                known[key] = None
    return [known[key] for key in found]


def _images(encodings: Sequence[Encoded], found: Sequence[tuple[int, int] | None]) -> int:
    """Images per prompt: as many as the rows have of each of the prompts encoded together."""
    call, _ = found[0]  # type: ignore[misc]
    images, rest = divmod(len(found), len(encodings[call].ids))
    grouped = rest == 0 and all(
        found[start] == key
        for start in range(0, len(found), max(images, 1))
        for key in found[start : start + images]
    )
    return images if grouped else 1


def _unconditional(pipe: Any, encodings: Sequence[Encoded], text: Text) -> list[Prompt | None]:
    """The prompts of unconditional rows; SDXL's default, all zeros, has the layout of "".

    Few need the categories of these rows, so one that has none is no error here.
    """
    named = _named(pipe, encodings, _recognise(encodings, text), text, refuse=False)
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
