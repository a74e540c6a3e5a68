"""What a pipeline's text encoders returned since the last run, and which prompt a row holds.

A row is recognised by its embeddings, which must equal, number for number, something that the text
encoder returned; so neither the order of its calls nor unused encodings can mislead.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor, nn

from interp.denoiser.caller import stranger
from interp.denoiser.hooks import Hooks
from interp.errors import InterpError
from interp.text.encoding import ASIDE, encoders, from_ids
from interp.text.prompt import Prompt

Text = Float[Tensor, "row position channel"]
Place = tuple[int, int]
"""A call of the text encoders, and a row in it."""


@dataclass(frozen=True)
class Encoded:
    """One call of the text encoders: their ids, and every state of the primary one that a pipeline
    may use as embeddings."""

    ids: Integer[Tensor, "row position"]
    ids_2: Integer[Tensor, "row position"] | None
    states: tuple[Text, ...]


class Encodings:
    """The calls of a pipeline's text encoders since its last run.

    Example:
        >>> with Hooks() as hooks:
        ...     encodings = Encodings(pipe, hooks)
        ...     embeds, _ = pipe.encode_prompt("a photo of a goat", "cpu", 1, False)
        >>> encodings.places(embeds)
        [{(0, 0)}]
    """

    def __init__(self, pipe: Any, hooks: Hooks) -> None:
        self.pipe = pipe
        self.calls: list[Encoded] = []
        self.used = False
        primary, *second = (encoder for _, encoder in encoders(pipe))
        hooks.after(primary, self._after_encoder)
        for encoder in second:
            hooks.after(encoder, self._after_second_encoder)

    def places(self, text: Text) -> list[Set[Place]]:
        """Where each row was returned; empty for a row that was not."""
        found: list[Set[Place]] = [set() for _ in text]
        text = text.detach()
        for call, encoded in enumerate(self.calls):
            for state in encoded.states:
                if state.shape[1] != text.shape[1] or state.shape[2] > text.shape[2]:
                    continue
                said = state.detach().to(text)
                shown = text[..., : said.shape[-1]]
                # The last position depends on the whole prompt, so comparing it first is enough.
                last = rearrange(shown[:, -1], "row channel -> row 1 channel") == said[:, -1]
                for row, place in last.all(dim=-1).nonzero().tolist():
                    if torch.equal(shown[row], said[place]):
                        found[row] |= {(call, place)}
        return found

    def prompts(self, text: Text, refuse: bool = True) -> list[Prompt | None]:
        """The prompts of rows, None for unknown ones; equal rows share one `Prompt`.

        If SDXL's encoders disagree about positions, raise if `refuse`, or leave the prompt unknown.
        """
        known: dict[Place, Prompt | None] = {}
        found = [min(places, default=None) for places in self.places(text)]
        for place, row in zip(found, text, strict=True):
            if place is not None and place not in known:
                known[place] = self._prompt(place, row.detach(), refuse)
        return [None if place is None else known[place] for place in found]

    def unconditional(self, text: Text) -> list[Prompt | None]:
        """The prompts of unconditional rows; SDXL's default, all zeros, has the categories of "".

        The categories of these rows are rarely needed, so unknown ones are not an error here.
        """
        return [
            self._empty(row) if prompt is None and not bool(row.any()) else prompt
            for prompt, row in zip(self.prompts(text, refuse=False), text, strict=True)
        ]

    def _prompt(self, place: Place, row: Tensor, refuse: bool) -> Prompt | None:
        call, number = place
        ids, second = self.calls[call].ids[number].cpu(), self.calls[call].ids_2
        try:
            return from_ids(self.pipe, ids, row, None if second is None else second[number].cpu())
        except InterpError:
            if refuse:
                raise
            return None

    def _empty(self, row: Float[Tensor, "position channel"]) -> Prompt:
        first, *second = (
            torch.tensor(tokenizer("", padding="max_length", max_length=len(row)).input_ids)
            for tokenizer, _ in encoders(self.pipe)
        )
        return from_ids(self.pipe, first, row.detach(), *second)

    def _after_encoder(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if ASIDE.get() or stranger(self.pipe) is not None:
            return
        if self.used:
            self.calls, self.used = [], False
        # SDXL takes an earlier layer than SD, and clip_skip an even earlier one.
        states = [*(getattr(output, "hidden_states", None) or ()), output.get("last_hidden_state")]
        ids = args[0] if args else kwargs["input_ids"]
        self.calls.append(Encoded(ids, None, tuple(s for s in states if s is not None)))

    def _after_second_encoder(
        self, module: nn.Module, args: tuple, kwargs: dict, output: Any
    ) -> None:
        # SDXL's encoders are called one after the other, the primary one first.
        if self.calls and not ASIDE.get() and stranger(self.pipe) is None:
            ids = args[0] if args else kwargs["input_ids"]
            self.calls[-1] = replace(self.calls[-1], ids_2=ids)
