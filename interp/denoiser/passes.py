"""Several calls of a transformer within one step, which are no steps of their own.

FLUX calls it again for unconditional rows (`true_cfg_scale`), SD 3 for skipped layers. Not for
UNets, whose schedulers may predict twice in a step.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from interp.denoiser.caller import caller
from interp.transformer.family import family


class Passes:
    """Counts the calls within a step, from what the scheduler has done since.

    Example:
        >>> passes = Passes(flux)
        >>> passes.number(981)      # 0 at the first call of a step, then 1
        0
    """

    def __init__(self, pipe: Any) -> None:
        self.pipe, self.known = pipe, family(pipe) is not None
        self._number = 0
        self._at: tuple[Any, Any, float] | None = None

    def number(self, given: Tensor | float) -> int:
        """Which call of its step this is, counted from 0; always 0 where no pipeline calls."""
        pipe = caller() if self.known else None
        if pipe is None or pipe is not self.pipe:
            return 0
        scheduler: Any = pipe.scheduler  # type: ignore[attr-defined]
        timestep = float(given.flatten()[0] if isinstance(given, Tensor) else given)
        at = (scheduler.timesteps, getattr(scheduler, "step_index", None), timestep)
        same = self._at is not None and at[0] is self._at[0] and at[1:] == self._at[1:]
        self._number = self._number + 1 if same else 0
        self._at = at
        return self._number
