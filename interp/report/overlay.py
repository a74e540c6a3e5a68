"""Small maps of the attention to each category, to overlay on the image.

Averaged over all layers and heads at one small size, as cross-attention is usually shown; detectors
need the first layers' maps at full size, so these are recorded under another name.
"""

from dataclasses import dataclass
from typing import Any

from interp.record.recorders import Maps

SIDE = 16
"""The most cells along a side: the resolution at which Stable Diffusion's layers are spatial."""


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
    """The recorder for a session's images, with their aspect ratio.

    Example:
        >>> sd.trace(a, record=overlay(sd)).overlay.mean(["layer", "head"])
    """
    scale = session.pipe.vae_scale_factor
    high, wide = session.height // scale, session.width // scale
    shrink = max(1, max(high, wide) / SIDE)
    return Overlay(size=(round(high / shrink), round(wide / shrink)))
