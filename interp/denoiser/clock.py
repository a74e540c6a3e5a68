"""Which step of which run is this UNet call?"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from interp.denoiser.hooks import Hooks
from interp.denoiser.passes import Passes
from interp.denoiser.pipelines import denoiser as denoising


class StepClock:
    """Knows the step, run and timestep of every UNet call.

    Example:
        >>> with Hooks() as hooks:
        ...     clock = StepClock(pipe, hooks)
        ...     pipe("a photo of a goat", num_inference_steps=3)
        >>> clock.run, clock.step      # the first run's last step
        (0, 2)

    `step` counts UNet calls within one run of the sampler, from 0. A new run begins when the
    scheduler was given new timesteps (every pipeline call does that), when its first timestep comes
    round again, or after `restart`. Calls by another pipeline that shares the UNet are not counted.
    Add hooks that need the clock after it. `denoiser` is a ControlNet whose calls are to be counted
    instead.
    """

    def __init__(self, pipe: Any, hooks: Hooks, denoiser: nn.Module | None = None) -> None:
        self.pipe = pipe
        self.run, self.step, self.timestep = -1, -1, float("nan")
        self._fixed: int | None = None
        self._again = True
        self._seen: tuple[Any, float] = (None, float("nan"))
        self._passes = Passes(pipe)
        module = denoising(pipe) if denoiser is None else denoiser
        hooks.before(module, self._tick, of=pipe, first=self._passes.known)

    def restart(self) -> None:
        """The next UNet call is step 0 of a new run."""
        self._again, self._fixed = True, None

    def at(self, step: int | None) -> None:
        """All following UNet calls are this step, until `at(None)` or `restart`."""
        self._fixed = step

    def _tick(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = args[1] if len(args) > 1 else kwargs["timestep"]
        if self._passes.number(given):
            return
        # Rows may be of different timesteps where the UNet is called directly; the first decides.
        timestep = float(given.flatten()[0] if isinstance(given, Tensor) else given)
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
