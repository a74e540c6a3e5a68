"""What a long run will cost: images, UNet rows, hours on this machine, and disk space.

Hours are extrapolated from two short runs: they reflect the device, precision and image size, but
not other load on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from interp.session import Session

SHORT, LONG = 2, 4
"""Steps of the two timed runs."""
BACKWARD = 2
"""The cost of a backward pass, in forward passes."""


@dataclass(frozen=True)
class Cost:
    """The cost of a run; `hours` are for one process.

    Example:
        >>> print(cost(sd, prompts=458, seeds=10, edits=ip.paper.mitigations()))
        36640 images, 3847200 UNet rows, 86 hours in one process, 28.8 GB of images at most
    """

    images: int
    rows: int
    hours: float
    gigabytes: float

    def __str__(self) -> str:
        hours = f"{self.hours:.1f}" if self.hours < 10 else f"{self.hours:.0f}"
        disk = f", {self.gigabytes:.1f} GB of images at most" if self.gigabytes else ""
        return f"{self.images} images, {self.rows} UNet rows, {hours} hours in one process{disk}"


def cost(
    session: Session, prompts: int, seeds: int, edits: Mapping[str, Any], keep_images: bool = True
) -> Cost:
    """Estimate a sweep from two short runs of one image.

    Example:
        >>> cost(sd, prompts=458, seeds=10, edits=ip.paper.interventions()).hours

    Args:
        session: pipeline and settings, including steps and guidance.
        prompts, seeds: how many.
        edits: by name, in addition to the unedited image. An optimisation counts all its
            iterations, each one step's rows forward and backward.
        keep_images: whether images are written to disk.
    """
    rows_a_step = 2 if session.guided else 1
    optimised = sum(getattr(edit, "iterations", 0) for edit in edits.values())
    one = (1 + len(edits)) * session.steps * rows_a_step
    one += round(optimised * rows_a_step * (1 + BACKWARD))
    images = prompts * seeds * (1 + len(edits))
    row, rest = _timed(session)
    bytes_an_image = 3 * session.height * session.width if keep_images else 0
    seconds = prompts * seeds * one * row + images * rest
    return Cost(images, prompts * seeds * one, seconds / 3600, images * bytes_an_image / 1e9)


def _timed(session: Session) -> tuple[float, float]:
    """Seconds of one UNet row, and of the rest of an image (encoding, decoding)."""
    took = {}
    for steps in (1, SHORT, LONG):  # the first one warms up
        short = session.but(steps=steps)
        began = time.perf_counter()
        short.run("", images=True)
        took[steps] = time.perf_counter() - began
    rows = 2 if session.guided else 1
    row = max(0.0, took[LONG] - took[SHORT]) / ((LONG - SHORT) * rows)
    return row, max(0.0, took[SHORT] - SHORT * rows * row)
