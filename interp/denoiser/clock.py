"""Which step is this, and what is each row of the batch? `Watch` tells, at every UNet call.

It hears what the text encoders say and sees what the UNet is given, and changes neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from interp.denoiser.batch import Heard, Rows, from_heard, from_tokens
from interp.denoiser.hooks import Hooks
from interp.text.encoding import ASIDE, encoders
from interp.text.prompt import Prompt


class Watch:
    """Knows, during every UNet call, the step and what each row of the batch is.

    Example:
        >>> with Hooks() as hooks:
        ...     watch = Watch(pipe, hooks)
        ...     pipe("a photo of a goat")
        >>> watch.run, watch.step      # the first run's last step
        (0, 49)

    `step` counts UNet calls within one run of the sampler, from 0. A new run begins when the
    scheduler was given new timesteps (every pipeline call does that), when its first timestep comes
    round again, or when `restart` was called. `at(step)` fixes the step of the calls that follow.
    """

    def __init__(
        self,
        pipe: Any,
        hooks: Hooks,
        tokens: Sequence[Prompt] | None = None,
        negative: Sequence[Prompt] | None = None,
        guided: bool | None = None,
    ) -> None:
        self.pipe, self.tokens, self.negative, self.guided = pipe, tokens, negative, guided
        self.run, self.step, self.timestep = -1, -1, float("nan")
        self.rows: Rows | None = None
        self.size: tuple[int, int] = (0, 0)
        self.started: list[Callable[[], None]] = []
        self._heard: list[Heard] = []
        self._stale = False
        self._fixed: int | None = None
        self._again = True
        self._seen: tuple[Any, float] = (None, float("nan"))
        self._text: Any = None
        if tokens is None or getattr(pipe, "text_encoder", None) is not None:
            primary, *second = (encoder for _, encoder in encoders(pipe))
            hooks.after(primary, self._hear)
            for encoder in second:
                hooks.after(encoder, self._hear_second)
        hooks.before(pipe.unet, self._tick)

    @property
    def batch(self) -> Rows:
        """The rows of the UNet call that is under way."""
        if self.rows is None:
            raise RuntimeError("Watch.batch is known only during a UNet call")
        return self.rows

    def restart(self) -> None:
        """The next UNet call is step 0 of a new run."""
        self._again, self._fixed = True, None

    def at(self, step: int | None) -> None:
        """All following UNet calls are this step, until `at(None)` or `restart`."""
        self._fixed = step

    def _hear(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if ASIDE.get():
            return
        ids = args[0] if args else kwargs["input_ids"]
        if self._stale:
            self._heard, self._stale = [], False
        # SDXL reads an earlier layer than SD, and clip_skip an earlier one still.
        states = [*(getattr(output, "hidden_states", None) or ()), output.get("last_hidden_state")]
        read = tuple(state for state in states if state is not None)
        self._heard.append(Heard(ids, None, read))

    def _hear_second(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        # SDXL's encoders are called one after the other, the primary one first.
        if not ASIDE.get() and self._heard:
            ids = args[0] if args else kwargs["input_ids"]
            self._heard[-1] = replace(self._heard[-1], ids_2=ids)

    def _tick(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        sample = args[0] if args else kwargs["sample"]
        given = args[1] if len(args) > 1 else kwargs["timestep"]
        # Rows may be of different timesteps where the UNet is called directly; the first speaks.
        timestep = float(given.flatten()[0] if isinstance(given, Tensor) else given)
        text = kwargs["encoder_hidden_states"] if len(args) < 3 else args[2]
        self._count(timestep)
        self.size = (sample.shape[-2], sample.shape[-1])
        if text is not self._text:
            self.rows, self._text, self._stale = self._identify(text), text, True
        for begin in self.started:
            begin()

    def _count(self, timestep: float) -> None:
        schedule = getattr(self.pipe.scheduler, "timesteps", None)
        known, first = self._seen
        came_round = timestep == first and timestep != self.timestep
        if self._again or schedule is not known or came_round:
            self.run, self.step = self.run + 1, 0
            # Holding the tensor itself keeps its identity from being given to another one.
            self._seen, self._again = (schedule, timestep), False
        else:
            self.step += 1
        if self._fixed is not None:
            self.step = self._fixed
        self.timestep = timestep

    def _identify(self, text: Tensor) -> Rows:
        guided = self.guided
        if guided is None:
            guided = bool(getattr(self.pipe, "do_classifier_free_guidance", False))
        if self.tokens is None:
            return from_heard(self.pipe, self._heard, text, guided)
        return from_tokens(self.pipe, self.tokens, self.negative, self._heard, text, guided)
