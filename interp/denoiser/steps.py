"""What a sampler makes of every prediction: the latents after each of its steps.

Between the scheduler and the pipeline, because not all pipelines call back (PixArt's does not let
latents be changed). Within one run; nothing stays on the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor


@contextmanager
def stepping(scheduler: Any, after: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Call `after(latents)` after every step, and go on with the latents that it returns.

    Example:
        >>> with stepping(pipe.scheduler, lambda latents: latents[[0] * len(latents)]):
        ...     pipe(["a goat", "a cow"])
    """
    before, step = vars(scheduler).get("step"), scheduler.step

    # Pipelines look at its signature.
    @wraps(step)
    def stepped(*args: Any, **kwargs: Any) -> tuple[Any, ...]:
        latents, *more = step(*args, **kwargs)
        return (after(latents), *more)

    scheduler.step = stepped
    try:
        yield
    finally:
        if before is None:
            del scheduler.step
        else:
            scheduler.step = before
