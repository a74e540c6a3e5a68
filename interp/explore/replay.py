"""A run's first UNet calls given back instead of computed, until a patch changes something.

Up to there a patched run is the clean one. The pipeline's own loop runs all steps, so its scheduler
is where it would be; only the UNet rests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from interp.denoiser.hooks import Hooks
from interp.patch import Patch


@contextmanager
def predictions(unet: nn.Module) -> Iterator[list[Tensor]]:
    """What a UNet predicts in the block, call by call.

    Example:
        >>> with predictions(pipe.unet) as kept:
        ...     pipe("a photo of a goat")
    """
    kept: list[Tensor] = []
    with Hooks() as hooks:
        hooks.after(unet, lambda module, args, kwargs, output: kept.append(output[0]))
        yield kept


@contextmanager
def replayed(unet: nn.Module, kept: Sequence[Tensor]) -> Iterator[None]:
    """The first calls of a UNet in the block return what was kept; hooks on it run as usual.

    Example:
        >>> with predictions(pipe.unet) as kept:
        ...     pipe("a photo of a goat")
        >>> with replayed(pipe.unet, kept[:2]):
        ...     pipe("a photo of a goat")           # computes from step 2 on
    """
    missing = object()
    # accelerate, for one, has a forward of its own there.
    before, compute = vars(unet).get("forward", missing), unet.forward
    remaining = iter(kept)

    def forward(*args: Any, **kwargs: Any) -> Any:
        for prediction in remaining:
            return (prediction,)
        return compute(*args, **kwargs)

    unet.forward = forward
    try:
        yield
    finally:
        if before is missing:
            del unet.forward
        else:
            unet.forward = before  # type: ignore[assignment]


def first_step(patch: Patch) -> int:
    """The first step at which a patch may change anything.

    Example:
        >>> first_step(zero("pad", steps=range(5, 10)) & zero("eot", steps=7))
        5
    """
    steps = [operation.where.steps for operation in patch.operations]
    return min(0 if these is None else these[0] for these in steps)  # type: ignore[index]
