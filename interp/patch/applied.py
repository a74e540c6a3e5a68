"""Patches on a running pipeline, until they are removed.

Several patches may be on one UNet; their operations run in the order in which the patches were
applied, as if joined by `&`. Use `Patch.on`, `Patch.install` or `apply`, not this file; what
happens in the layers is in `patched`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain
from typing import Any

from torch import nn

from interp.denoiser.batch import BatchRows
from interp.denoiser.clock import StepClock
from interp.denoiser.exchanged import must_be_the_same
from interp.denoiser.hooks import Hooks, hookable, patched
from interp.denoiser.pipelines import denoiser as denoising
from interp.denoiser.pipelines import stock
from interp.denoiser.transformer_rows import reader_of
from interp.errors import InterpError
from interp.patch.at import At
from interp.patch.base import Operation, must_touch
from interp.patch.denoisers import denoisers
from interp.patch.sensible import must_make_sense
from interp.patch.transformer import engine
from interp.text.encoding import ASIDE
from interp.text.prompt import Prompt


class Applied:
    """Patches on a pipeline, until `remove`. Knows the step and the rows of each UNet call.

    Example:
        >>> embeds = torch.stack([empty.embeds] * 2 + [a.embeds] * 2)
        >>> latents = torch.randn(4, 4, 16, 16)
        >>> with ip.apply(pipe, [(a, ip.zero("pad")), (a, None)], guided=True) as applied:
        ...     applied.at(7)
        ...     pipe.unet(latents, 981, encoder_hidden_states=embeds)

    Args:
        pipe: a Stable Diffusion 1.x, 2.x or SDXL pipeline. Its ControlNets are patched too, except
            by operations limited to layers or heads, which refer to the UNet.
        operations: for each conditional prompt, in order; or one entry for all.
        tokens: the conditional prompts; None recognises prompts that are passed as text.
        strict: as in `Patch.install`.

    Other arguments and errors as in `apply`.
    """

    def __init__(
        self,
        pipe: Any,
        operations: Sequence[tuple[Operation, ...]],
        tokens: Prompt | Sequence[Prompt] | None,
        negative: Prompt | Sequence[Prompt] | None,
        guided: bool | None,
        strict: bool | None,
    ) -> None:
        self.pipe = pipe = stock(pipe)
        self.strict = strict
        self.operations = tuple(dict.fromkeys(chain.from_iterable(operations)))
        must_make_sense(self.operations, pipe)
        self.touched: set[Operation] = set()
        self.on = True
        self._hooks = Hooks()
        self._foreseen: BatchRows | None = None
        self._denoisers = denoisers(pipe)
        # Resolving heads here reports unknown layers and heads before anything runs.
        layers = [hookable(pipe, denoiser) for denoiser in self._denoisers]
        heads = {o: o.where.heads_at(layers[0]) for o in self.operations}
        self._at: list[At] = []
        for denoiser, there in zip(self._denoisers, layers, strict=True):
            if denoiser is not denoising(pipe):
                self._hooks.before(denoiser, self._guess, of=pipe)
                operations = [tuple(filter(_anywhere, mine)) for mine in operations]
                heads = {o: o.where.heads_at(there) for o in filter(_anywhere, self.operations)}
            reader = reader_of(pipe)(pipe, self._hooks, tokens, negative, guided, denoiser)
            clock = StepClock(pipe, self._hooks, denoiser)
            self._at.append(At(operations, heads, reader, clock, self.touched))
        self.reader, self.clock = self._at[0].reader, self._at[0].clock
        self._guided = guided
        self._hooks.before(denoising(pipe), self._foresee, of=pipe)
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
            if getattr(pipe, name, None) is not None:
                self._hooks.before(getattr(pipe, name), self._before_encoding, of=pipe)
        for denoiser, sites, at in zip(self._denoisers, layers, self._at, strict=True):
            engine(denoiser).of(denoiser, sites).add(self, at, self._hooks)

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self.remove(check=kind is None)

    def __repr__(self) -> str:
        return f"Applied({' & '.join(map(repr, self.operations))})"

    def restart(self) -> None:
        """Make the next UNet call step 0 of a new run; a call of the pipeline does so by itself."""
        for at in self._at:
            at.clock.restart()

    def at(self, step: int | None) -> None:
        """Make all following UNet calls this step, until `at(None)`."""
        for at in self._at:
            at.clock.at(step)

    def remove(self, check: bool = True) -> None:
        """Remove the patches; removing them twice is harmless.

        Raises:
            InterpError: unless `check=False`: the pipeline's UNet was replaced; or patches are
                strict, the UNet ran, and an operation touched nothing.
        """
        if not self.on:
            return
        self.on = False
        self._hooks.close()
        if not check:
            return
        must_be_the_same(denoisers(self.pipe), self._denoisers, repr(self))
        missed = [o for o in self.operations if o not in self.touched and not o.idle]
        if self.clock.run < 0 or not missed or self.strict is False:
            return
        ran = f"{self.clock.run + 1} runs, the last of {self.clock.step + 1} steps"
        if self.strict:
            must_touch(self.operations, self.touched, ran)
        warnings.warn(f"{missed!r} touched nothing in {ran}.", stacklevel=2)

    def _before_encoding(self, module: nn.Module, *call: Any) -> None:
        """The pipeline encodes, so it is about to run: the earliest moment to report an error."""
        if not ASIDE.get():
            must_be_the_same(denoisers(self.pipe), self._denoisers, repr(self))

    def _guess(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """In guess mode a ControlNet receives only the conditional rows."""
        reader = self._at[self._denoisers.index(module)].reader
        reader.guided = False if kwargs.get("guess_mode") else self._guided

    def _foresee(self, *call: Any) -> None:
        """Before a batch runs: check which rows the operations will leave alone.

        Raises:
            InterpError: patches are strict, and an operation will leave all rows alone.
        """
        if self.reader.batch is self._foreseen or self.strict is False:
            return
        self._foreseen = batch = self.reader.batch
        rows = self._at[0].on_rows()
        for operation in self.operations:
            places = [
                (number >= batch.uncond, prompt)
                for number, row in enumerate(rows)
                for found, prompt in row
                if found == operation
            ]
            left = [(c, p) for c, p in places if p is not None and not operation.reaches(p)]
            # Rows that it applies to may come in another batch of this step.
            later = not places and self.reader.apart
            if operation.idle or later or (places and not left):
                continue
            if self.strict and len(left) == len(places):
                named = ", ".join(dict.fromkeys(repr(p) for _, p in left)) or "this batch"
                raise InterpError(
                    f"{operation!r} was asked for on {named}.",
                    "It would touch nothing: no row has such positions where it applies.",
                    "Check categories, rows and guidance; patch.on(pipe, strict=False) allows it.",
                )
            for prompt in dict.fromkeys(p for conditional, p in left if conditional):
                warnings.warn(
                    f"{operation!r} leaves {prompt!r} alone: it has no such positions.",
                    stacklevel=2,
                )


def _anywhere(operation: Operation) -> bool:
    """Whether it also applies to a ControlNet: layers, heads and predictions are the UNet's."""
    where = operation.where
    return where.layers is None and where.heads is None and operation.EDITS != "prediction"


def installed(pipe: Any) -> list[Applied]:
    """The patches that are currently on a pipeline, in the order in which they apply.

    Example:
        >>> handle = ip.zero("pad", fraction=0.7).install(pipe)
        >>> ip.installed(pipe)
        [Applied(zero('pad', fraction=0.7))]
    """
    pipe = stock(pipe)
    found = patched(denoising(pipe))
    return [] if found is None else found.on(pipe)


def remove(pipe: Any) -> None:
    """Remove all patches from a pipeline, even those whose handle is lost.

    Example:
        >>> ip.remove(pipe)
        >>> ip.installed(pipe)
        []
    """
    for applied in installed(pipe):
        applied.remove(check=False)
