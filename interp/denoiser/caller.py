"""Which pipeline calls a module: several may share a UNet, a text encoder, and a process.

A pipeline made with `from_pipe` shares another's modules, but has its own guidance and schedule.
What is on one must neither read nor change the other.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

from diffusers import DiffusionPipeline


def caller() -> DiffusionPipeline | None:
    """Return the innermost pipeline whose code this thread is running, or None.

    Example:
        >>> handle = pipe.unet.register_forward_pre_hook(lambda *_: seen.append(caller()))
        >>> images = pipe("a photo of a goat").images
        >>> handle.remove()
        >>> seen[0] is pipe
        True
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        # Look at locals only in methods: reading them copies them.
        if frame.f_code.co_argcount and frame.f_code.co_varnames[0] == "self":
            owner = frame.f_locals.get("self")
            if isinstance(owner, DiffusionPipeline):
                return owner
        frame = frame.f_back
    return None


def stranger(pipe: Any) -> DiffusionPipeline | None:
    """Return the pipeline that is running, unless it is `pipe`.

    Example:
        >>> handle = pipe.unet.register_forward_pre_hook(lambda *_: seen.append(stranger(pipe)))
        >>> images = pipe("a photo of a goat").images
        >>> handle.remove()
        >>> seen[0] is None
        True
    """
    running = caller()
    return None if running is pipe else running
