"""Patches on a running pipeline: each conditional row of a batch by its own patch ("worlds").

This is the one mechanism behind `Patch.on`, `Patch.install` and `Session.run`. Use it directly when
different rows of one batch must be patched differently, or when the UNet is called without its
pipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from interp.denoiser.clock import Watch
from interp.denoiser.hooks import Hooks, hookable
from interp.denoiser.layers import Site
from interp.errors import InterpError
from interp.patch.apply import Edit, board
from interp.patch.base import Operation
from interp.text.encoding import repad
from interp.text.prompt import Prompt


@runtime_checkable
class HasOperations(Protocol):
    """A patch, as far as it matters here."""

    @property
    def operations(self) -> tuple[Operation, ...]: ...


World = tuple[Prompt, HasOperations | None]


class Attached:
    """Patches on a pipeline until `remove`, and the clock of its runs.

    Example:
        >>> with attach(pipe, [(a, ip.zero("pad")), (a, None)], guided=True) as attached:
        ...     attached.at(7)
        ...     pipe.unet(latents, timestep, encoder_hidden_states=embeds)
    """

    def __init__(
        self,
        pipe: Any,
        worlds: Sequence[World] | None,
        everyone: HasOperations | None,
        negative: Sequence[Prompt] | None,
        guided: bool | None,
        strict: bool,
    ) -> None:
        layers = hookable(pipe)
        self.pipe, self.strict = pipe, strict
        patches = [everyone] if worlds is None else [patch for _, patch in worlds]
        self._patches = [() if patch is None else patch.operations for patch in patches]
        self._shared = worlds is None
        self.operations = tuple(dict.fromkeys(op for patch in self._patches for op in patch))
        # Asking for the heads now reports unknown layers and heads before anything runs.
        self.heads = {operation: operation.where.heads_at(layers) for operation in self.operations}
        self.touched: set[Operation] = set()
        self._again: dict[tuple, Prompt] = {}
        self._hooks = Hooks()
        tokens = None if worlds is None else [prompt for prompt, _ in worlds]
        self.watch = Watch(pipe, self._hooks, tokens, negative, guided)
        home = board(pipe.unet, layers)
        home.enter(self)
        self._hooks.callback(home.leave, self)

    def restart(self) -> None:
        """The next UNet call is step 0 of a new run (pipeline calls are noticed by themselves)."""
        self.watch.restart()

    def at(self, step: int | None) -> None:
        """All following UNet calls are this step, until `at(None)`."""
        self.watch.at(step)

    def remove(self, check: bool = True) -> None:
        """Take the patches off; removing twice is harmless.

        Raises:
            InterpError: if the UNet ran and an operation touched nothing (unless `check=False`).
        """
        self._hooks.close()
        check = check and self.strict and self.watch.run >= 0
        if check:
            self.strict = False
            ran = f"{self.watch.run + 1} runs, the last of {self.watch.step + 1} steps"
            must_touch(self.operations, self.touched, ran)

    def edits(self, site: Site) -> list[tuple[Edit, ...]]:
        """The operations on every row of the batch, at this layer in this step.

        Raises:
            InterpError: for operations on unconditional rows that nobody described.
        """
        rows = self.watch.batch
        found = []
        for row, prompt in enumerate(rows.prompts):
            unconditional = row < rows.uncond
            # An unconditional row is of the world of the conditional row that it is paired with.
            place = row if unconditional else row - rows.uncond
            here = [
                operation
                for operation in self._patches[0 if self._shared else place // rows.images]
                if operation.where.on_row(unconditional)
                and operation.where.at_step(self.watch.step)
                and site in self.heads[operation]
            ]
            if here and prompt is None:
                raise InterpError(
                    f"{here[0]!r} was to patch unconditional rows.",
                    "They were given as negative_prompt_embeds, and nothing says what they are.",
                    "Describe them: negative=interp.encode(pipe, '').",
                )
            found.append(tuple(Edit(operation, prompt, self) for operation in here if prompt))
        return found

    def reencode(self, prompt: Prompt, token: str | int) -> Prompt:
        """The prompt with other pads, encoded once per run."""
        # By prompt, not by its ids: SDXL's zeros have those of the empty prompt.
        key = (self.watch.run, prompt, token)
        if key not in self._again:
            self._again = {old: made for old, made in self._again.items() if old[0] == key[0]}
            self._again[key] = repad(self.pipe, prompt, token)
        return self._again[key]


def must_touch(operations: Iterable[Operation], touched: Set[Operation], ran: str) -> None:
    """Raise if one of the operations, unless it was asked to touch nothing, is not among `touched`.

    Example:
        >>> must_touch(zero("pad", steps=99).operations, set(), "1 runs of 50 steps")

    Raises:
        InterpError: naming them.
    """
    missed = [o for o in operations if o not in touched and not o.idle]
    if missed:
        raise InterpError(
            f"{' & '.join(map(repr, missed))} was on a pipeline while it ran.",
            f"It touched nothing in {ran}: no row has such positions where it applies.",
            "Check steps, layers, rows and categories; patch.on(pipe, strict=False) allows it.",
        )


@contextmanager
def attach(
    pipe: Any,
    worlds: Sequence[World] | None = None,
    *,
    everyone: HasOperations | None = None,
    negative: Prompt | Sequence[Prompt] | None = None,
    guided: bool | None = None,
    strict: bool = True,
) -> Iterator[Attached]:
    """Patch every conditional prompt of a batch by its own patch.

    Example:
        >>> with attach(pipe, [(a, patch) for patch in patches]):
        ...     pipe(prompt_embeds=embeds, negative_prompt_embeds=empty)

    Args:
        pipe: a Stable Diffusion 1.x, 2.x or SDXL pipeline.
        worlds: for each conditional prompt, in order, the prompt and its patch or None; None to
            recognise prompts that are given as text, and patch them all by `everyone`.
        everyone: the patch of prompts that are recognised.
        negative: the unconditional prompts, one for all or one per conditional prompt, where the
            pipeline does not encode them itself.
        guided: whether batches have unconditional rows; None asks the pipeline.
        strict: whether an operation that touched nothing is an error.

    Raises:
        InterpError: on entering, for what can not be hooked or does not exist; on leaving without
            another exception, for operations that touched nothing.
    """
    negative = [negative] if isinstance(negative, Prompt) else negative
    attached = Attached(pipe, worlds, everyone, negative, guided, strict)
    try:
        yield attached
    except BaseException:
        attached.remove(check=False)
        raise
    attached.remove()
