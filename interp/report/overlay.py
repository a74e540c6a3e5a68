"""Small maps of where each category is attended, to be laid over the image.

Averaged over all layers and heads at one small size, as cross-attention is usually shown; detectors
need the first layers' maps at their own size, so these are recorded under another name.
"""

from dataclasses import dataclass
from typing import Any

from interp.record.recorders import Maps

SIDE = 16
"""Cells across, at most: the resolution at which Stable Diffusion's layers know places."""


@dataclass(frozen=True)
class Overlay(Maps):
    """Maps by category of every layer, at one size; made by `overlay`."""

    @property
    def name(self) -> str:
        return "overlay"

    @property
    def dims(self) -> tuple[str, ...]:
        return (self.by, "map_y", "map_x")


def overlay(session: Any) -> Overlay:
    """The recorder for a session's images, of their aspect.

    Example:
        >>> sd.trace(a, record=overlay(sd)).overlay.mean(["layer", "head"])
    """
    scale = session.pipe.vae_scale_factor
    high, wide = session.height // scale, session.width // scale
    shrink = max(1, max(high, wide) / SIDE)
    return Overlay(size=(round(high / shrink), round(wide / shrink)))
