"""Which pipeline calls a module: several may share one UNet, one text encoder, and a process.

A pipeline made with `from_pipe` has the modules of another, and a guidance and a schedule of its
own. What is on the one must not be read from, nor done to, the other.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from diffusers import DiffusionPipeline


def caller() -> DiffusionPipeline | None:
    """Return the pipeline whose code this thread runs, the innermost; None if it runs none.

    Example:
        >>> handle = pipe.unet.register_forward_pre_hook(lambda *_: seen.append(caller()))
        >>> images = pipe("a photo of a goat").images
        >>> handle.remove()
        >>> seen[0] is pipe
        True
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        # Locals are looked at only where a method runs: reading them copies them.
        if frame.f_code.co_argcount and frame.f_code.co_varnames[0] == "self":
            owner = frame.f_locals.get("self")
            if isinstance(owner, DiffusionPipeline):
                return owner
        frame = frame.f_back
    return None


def stranger(pipe: Any) -> DiffusionPipeline | None:
    """Return the pipeline that runs now if it is another one than `pipe`.

    Example:
        >>> handle = pipe.unet.register_forward_pre_hook(lambda *_: seen.append(stranger(pipe)))
        >>> images = pipe("a photo of a goat").images
        >>> handle.remove()
        >>> seen[0] is None
        True
    """
    running = caller()
    return None if running is pipe else running
