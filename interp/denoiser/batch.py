"""What each row of a UNet batch is: unconditional or conditional, and of which prompt.

Stock pipelines order a batch as [unconditional..., conditional...] and repeat each prompt for its
images inside each half. `layout` tells the halves apart, `encodings` the prompts.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from weakref import WeakSet

import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor, nn

from interp.denoiser import layout
from interp.denoiser.caller import caller
from interp.denoiser.encodings import Encodings, Place, Text
from interp.denoiser.hooks import Hooks
from interp.denoiser.pipelines import denoiser as denoising
from interp.errors import InterpError
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt


@dataclass(frozen=True, eq=False)
class BatchRows:
    """The rows of one UNet batch.

    Attributes:
        prompts: the prompt of every row; None for unconditional rows whose prompts are unknown.
        uncond: how many rows, all at the front, are unconditional: none, or half.
        images: how many consecutive conditional rows are images of one prompt.
        frames: how many of those are consecutive frames of one video.
    """

    prompts: tuple[Prompt | None, ...]
    uncond: int
    images: int
    frames: int = 1

    def beside(self, row: int) -> Prompt | None:
        """The conditional prompt of the row's image; its own for a conditional row.

        None if unconditional rows have a batch of their own.
        """
        place = row + self.uncond if row < self.uncond else row
        return self.prompts[place] if place < len(self.prompts) else None

    @cached_property
    def category(self) -> Integer[Tensor, "row position"]:
        """Category codes of every row; -1 where the prompt is unknown."""
        length = len(next(prompt for prompt in self.prompts if prompt is not None).category)
        unknown = torch.full((length,), -1)
        rows = [unknown if prompt is None else prompt.category for prompt in self.prompts]
        return torch.stack(rows)

    @cached_property
    def members(self) -> Float[Tensor, "row position category"]:
        """1 where a position belongs to a category, for sums over categories."""
        codes = torch.arange(len(CATEGORIES))
        return (rearrange(self.category, "row position -> row position 1") == codes).float()

    @cached_property
    def ids(self) -> tuple[tuple[int, ...] | None, ...]:
        """Token ids of every row, by which rows are compared."""
        return tuple(None if p is None else tuple(p.ids.tolist()) for p in self.prompts)


class RowReader:
    """Knows what each row of the batch is, during every UNet call of the pipeline.

    Example:
        >>> with Hooks() as hooks:
        ...     reader = RowReader(pipe, hooks)
        ...     pipe("a photo of a goat")
        >>> reader.batch.prompts[-1].text
        'a photo of a goat'

    Args:
        tokens: the conditional prompts; None recognises prompts that are passed as text.
        negative: the unconditional prompts, if the pipeline does not encode them itself.
        guided: whether batches have unconditional rows; None finds out (see `layout`).
        denoiser: a ControlNet whose batches to read instead of the UNet's.

    Hooks that need the rows must be added after it. Calls by another pipeline that shares the UNet
    are ignored with a warning. The UNet call raises an `InterpError` if a batch does not contain
    the described prompts a whole number of times, or a conditional row is not recognised.
    """

    apart = False
    """Whether unconditional rows come in a batch of their own."""

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
        self._text: Any = None
        self._says: bool | None = None
        self._met: WeakSet[Any] = WeakSet()
        encodes = tokens is None or getattr(pipe, "text_encoder", None) is not None
        self._encodings = self._watch_encoders(hooks) if encodes else None
        self._watch(denoising(pipe) if denoiser is None else denoiser, hooks)

    def _watch_encoders(self, hooks: Hooks) -> Encodings:
        return Encodings(self.pipe, hooks)

    def _watch(self, denoiser: nn.Module, hooks: Hooks) -> None:
        hooks.before(denoiser, self._read)

    @property
    def batch(self) -> BatchRows:
        """The rows of the current UNet call."""
        if self.rows is None:
            raise RuntimeError("RowReader.batch is known only during a UNet call")
        return self.rows

    def _read(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        running = caller()
        if running is not None and running is not self.pipe:
            if running not in self._met:
                self._met.add(running)
                warnings.warn(
                    f"A {type(running).__name__} runs the UNet of the {type(self.pipe).__name__} "
                    "that is patched or recorded, and is left alone: patch or record it too.",
                    stacklevel=2,
                )
            return
        text = kwargs["encoder_hidden_states"] if len(args) < 3 else args[2]
        if text is None:
            raise InterpError(
                f"Cannot patch or record the text of a {type(self.pipe).__name__}.",
                "Its UNet is given none: the prompt reaches it as a class or an image.",
                "Use a Stable Diffusion 1.x, 2.x or SDXL pipeline.",
            )
        says = self.guided
        if says is None and running is not None:
            # If the UNet is called directly, the pipeline's flag is that of its last run.
            flag = getattr(self.pipe, "do_classifier_free_guidance", None)
            says = None if flag is None else bool(flag)
        if text is self._text and says == self._says:
            return
        identify = self._recognised if self.tokens is None else self._described
        rows = identify(text, says)
        sample = args[0] if args else kwargs.get("sample")
        if sample is not None and sample.ndim == 5:
            rows = replace(rows, frames=sample.shape[2])
        self.rows = rows
        self._text, self._says = text, says
        if self._encodings is not None:
            self._encodings.used = True

    def _described(self, text: Text, says: bool | None) -> BatchRows:
        """The rows of a batch whose conditional prompts the user described."""
        tokens = self.tokens or ()
        for prompt in (*tokens, *(self.negative or ())):
            if prompt.embeds.shape != text.shape[1:]:
                raise InterpError(
                    f"{prompt!r} can not be a row of this UNet batch.",
                    f"Its embeddings are {tuple(prompt.embeds.shape)}, the batch's rows "
                    f"{tuple(text.shape[1:])}.",
                    "Encode it with this pipeline.",
                )

        def holds(row: int, number: int) -> bool:
            return torch.equal(text[row].detach(), tokens[number].embeds.to(text))

        total = len(text)
        fits = layout.fitting(total, len(tokens), holds) if self.guided is None else set()
        named = ", ".join(repr(prompt.text) for prompt in tokens)
        half = layout.chosen(self.pipe, says, total, fits, f"of {named or 'no prompt'}")
        images, rest = divmod(total - half, len(tokens)) if tokens else (0, 0)
        if not images or rest:
            raise InterpError(
                f"{len(tokens)} prompts were described for a UNet batch of {total} rows.",
                f"{total - half} of these are conditional, not a multiple of {len(tokens)}.",
                "Describe each conditional prompt once, in order; if the UNet is called directly, "
                "pass guided=True or False.",
            )
        cond = [prompt for prompt in tokens for _ in range(images)]
        self._must_agree(cond, text[half:])
        return BatchRows((*self._negative(text[:half]), *cond), half, images)

    def _must_agree(self, described: Sequence[Prompt], text: Text) -> None:
        """Raise if rows whose encoding was seen hold other prompts than described."""
        seen = [] if self._encodings is None else self._encodings.prompts(text, refuse=False)
        for said, found in zip(described, seen, strict=False):
            if found is not None and not torch.equal(said.ids, found.ids):
                raise InterpError(
                    f"{said!r} was passed as tokens=.",
                    f"The row holds what the text encoder returned for {found.text!r}.",
                    "Leave out tokens=: prompts passed as text are recognised.",
                )

    def _negative(self, text: Text) -> Sequence[Prompt | None]:
        """The prompts of the unconditional rows, as described or recognised."""
        if self.negative is None:
            known = self._encodings
            return [None] * len(text) if known is None else known.unconditional(text)
        if len(text) % len(self.negative):
            raise InterpError(
                f"{len(self.negative)} negative prompts were described.",
                f"The batch has {len(text)} unconditional rows.",
                "Describe one for all prompts, or one for each.",
            )
        each = len(text) // len(self.negative)
        return [prompt for prompt in self.negative for _ in range(each)]

    def _recognised(self, text: Text, says: bool | None) -> BatchRows:
        """The rows of a batch, recognised by what the text encoder returned."""
        assert self._encodings is not None
        calls, places = self._encodings.calls, self._encodings.places(text)
        first = len(calls[0].ids) if calls else 0
        fits = layout.recognised(places, first) if self.guided is None else set()
        shown = ", ".join(self._shown(text))
        half = layout.chosen(self.pipe, says, len(text), fits, shown)
        missing = [row for row in range(half, len(text)) if not places[row]]
        if missing:
            raise InterpError(
                f"Cannot tell which prompts a UNet batch of {len(text)} rows holds.",
                f"Rows {missing} match none of the {len(calls)} encodings since the last run, "
                "because the pipeline was called with prompt_embeds, or they were encoded earlier.",
                "Pass the prompts: tokens=interp.encode(pipe, prompts), or interp.join(...) of "
                "windows that were concatenated.",
            )
        if not fits and self.guided is None and not layout.apart(places, half):
            layout.chosen(self.pipe, None, len(text), fits, shown)
        cond = self._encodings.prompts(text[half:])
        together = len(calls[min(places[half])[0]].ids)
        images = _images(places[half:], together)
        return BatchRows((*self._negative(text[:half]), *cond), half, images)

    def _shown(self, text: Text) -> list[str]:
        """What the rows hold, for messages."""
        assert self._encodings is not None
        prompts = self._encodings.unconditional(text)
        return ["something unknown" if one is None else repr(one.text) for one in prompts]


def _images(found: Sequence[Set[Place]], prompts: int) -> int:
    """Images per prompt, if the rows have equally many of all prompts encoded together, or 1."""
    images, rest = divmod(len(found), prompts)
    starts = range(0, len(found), max(images, 1))
    grouped = rest == 0 and all(
        found[start] == same for start in starts for same in found[start : start + images]
    )
    return images if grouped else 1
