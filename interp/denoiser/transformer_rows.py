"""What each row of a transformer's batch is: as for a UNet, but with several encoders' positions.

SD 3 and PixArt order a batch as [unconditional..., conditional...]; FLUX has no unconditional rows,
or calls its transformer a second time for them.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from interp.denoiser.batch import BatchRows, RowReader
from interp.denoiser.caller import stranger
from interp.denoiser.encodings import Encoded, Encodings, Place, Text
from interp.denoiser.hooks import Hooks
from interp.denoiser.passes import Passes
from interp.errors import InterpError
from interp.text.encoding import ASIDE
from interp.text.prompt import Prompt
from interp.text.segments import describe, must_have
from interp.transformer.family import family


class SegmentEncodings(Encodings):
    """The calls of all encoders; a row is identified by T5's positions, then by the others'."""

    def __init__(self, pipe: Any, hooks: Hooks) -> None:
        self.pipe, self.used = pipe, False
        self.known = must_have(pipe)
        self.by: dict[str, list[Encoded]] = {}
        for segment in self.known.segments:
            for suffix in segment.encoders:
                self.by[suffix] = []
                encoder = getattr(pipe, f"text_encoder{suffix}")
                state = segment.state

                def keep(
                    module: nn.Module,
                    args: tuple,
                    kwargs: dict,
                    output: Any,
                    suffix: str = suffix,
                    state: int | None = state,
                ) -> None:
                    self._keep(suffix, state, args[0] if args else kwargs["input_ids"], output)

                hooks.after(encoder, keep)

    @property
    def calls(self) -> list[Encoded]:  # type: ignore[override]
        """Those of T5, which all families have."""
        return self.by[self.known.segments[-1].encoders[0]]

    def _keep(self, suffix: str, state: int | None, ids: Tensor, output: Any) -> None:
        if ASIDE.get() or stranger(self.pipe) is not None:
            return
        if self.used:
            for calls in self.by.values():
                calls.clear()
            self.used = False
        if state is None:
            states: Sequence[Text] = (output.last_hidden_state,)
        else:
            states = tuple(reversed(output.hidden_states[: state + 1 or None]))
        self.by[suffix].append(Encoded(ids, None, tuple(states)))

    def places(self, text: Text) -> list[Set[Place]]:
        found: list[Set[Place]] = [set() for _ in text]
        for call, encoded in enumerate(self.calls):
            (state,) = encoded.states
            shown = text[:, -state.shape[1] :]
            for row, place in _equal(shown, state):
                found[row] |= {(call, place)}
        return found

    def unconditional(self, text: Text) -> list[Prompt | None]:
        return self.prompts(text, refuse=False)

    def _prompt(self, place: Place, row: Tensor, refuse: bool) -> Prompt | None:
        call, number = place
        last = self.known.segments[-1].encoders[0]
        ids = {last: self.calls[call].ids[number].cpu()}
        for segment in self.known.segments[:-1]:
            first = 0
            for suffix in segment.encoders:
                found = self._encoded(suffix, row, first)
                if found is None:
                    if not refuse:
                        return None
                    raise InterpError(
                        f"Cannot tell what a row of a {type(self.pipe).__name__}'s batch holds.",
                        f"Its {segment.name} positions match no output of text_encoder{suffix}.",
                        "Pass the prompts: tokens=interp.encode(pipe, prompts).",
                    )
                ids[suffix], width = found
                first += width
        return describe(self.pipe, ids, row)

    def _encoded(self, suffix: str, row: Tensor, first: int) -> tuple[Tensor, int] | None:
        """The ids that an encoder read for channels of a row, and how many channels they gave."""
        for encoded in self.by[suffix]:
            for state in encoded.states:
                width = state.shape[-1]
                shown = row[None, : state.shape[1], first : first + width]
                for _, place in _equal(shown, state):
                    return encoded.ids[place].cpu(), width
        return None


def _equal(shown: Tensor, state: Tensor) -> list[tuple[int, int]]:
    """Which rows equal which rows of a state exactly."""
    said = state.detach().to(shown)
    if shown.shape[1] != said.shape[1] or said.shape[2] > shown.shape[2]:
        return []
    shown = shown[..., : said.shape[-1]].detach()
    return [
        (row, place)
        for row in range(len(shown))
        for place in range(len(said))
        if torch.equal(shown[row], said[place])
    ]


class TransformerReader(RowReader):
    """`RowReader` of a transformer.

    Attributes:
        second: whether the current call is not the first of its step.
    """

    second = False

    def _watch_encoders(self, hooks: Hooks) -> Encodings:
        return SegmentEncodings(self.pipe, hooks)

    def _watch(self, denoiser: nn.Module, hooks: Hooks) -> None:
        known = family(self.pipe)
        assert known is not None
        self.apart = known.passes
        if known.passes:
            self.guided = False
        self._passes = Passes(self.pipe)
        self._first: BatchRows | None = None
        self._again: tuple[Any, BatchRows | None] = (None, None)
        # Before hooks that change the transformer's input.
        hooks.before(denoiser, self._read, first=True)

    def _read(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if stranger(self.pipe) is None and self._passes.number(kwargs["timestep"]):
            self.second = True
            pooled = kwargs.get("pooled_projections")
            self.rows = self._second(kwargs["encoder_hidden_states"], pooled)
            return
        self.second = False
        self.rows = self._first
        super()._read(module, args, kwargs)
        if self.rows is not None and self.rows is not self._first:
            self._first = self.rows = _with_pooled(self.rows, kwargs.get("pooled_projections"))

    def _second(self, text: Text, pooled: Tensor | None) -> BatchRows:
        """The rows of a second call in a step."""
        assert self._first is not None
        if self._again[0] is not text:
            first = self._first
            if self.apart:
                rows = BatchRows(tuple(self._negative(text)), len(text), first.images)
            else:
                rows = BatchRows(first.prompts[first.uncond :], 0, first.images)
            self._again = (text, _with_pooled(rows, pooled))
        assert self._again[1] is not None
        return self._again[1]


def _with_pooled(rows: BatchRows, pooled: Tensor | None) -> BatchRows:
    """The rows, their prompts with the pooled vectors given to the transformer."""
    if pooled is None:
        return rows
    known: dict[int, list[tuple[Tensor, Prompt]]] = {}
    prompts: list[Prompt | None] = []
    for prompt, vector in zip(rows.prompts, pooled.detach(), strict=True):
        if prompt is not None:
            # Rows of one prompt still share an object.
            same = known.setdefault(id(prompt), [])
            found = next((one for given, one in same if torch.equal(given, vector)), None)
            if found is None:
                found = replace(prompt, pooled=vector)
                same.append((vector, found))
            prompt = found
        prompts.append(prompt)
    return replace(rows, prompts=tuple(prompts))


def reader_of(pipe: Any) -> type[RowReader]:
    """The reader for a pipeline's batches."""
    return RowReader if family(pipe) is None else TransformerReader
