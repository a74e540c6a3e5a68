"""Which networks measure: those beside an embedded model, or the files that the user gives."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

import interp as ip
from interp.models import find

BICUBIC = Image.Resampling.BICUBIC
PAPER_KEEPS = 0.5
"""From this SSCD similarity on, the paper calls an image memorized."""


@dataclass(frozen=True)
class Measures:
    """A copy descriptor, perhaps a CLIP model, and the similarity from which on images are copies.

    Without a descriptor images are compared by SSIM, which is rough: a shift of a few pixels makes
    another image.
    """

    copy: Any
    clip: Any | None
    keeps: float

    @classmethod
    def of(cls, model: str, sscd: Path | None = None, clip: Path | None = None) -> "Measures":
        """The measures of a model.

        Example:
            >>> Measures.of("organism/eot").keeps
            0.647

        Args:
            model: as for `interp.load`.
            sscd, clip: the user's own, which are preferred.
        """
        folder = find(model)
        beside = None if folder is None else folder.parent
        fidelity = None
        if clip is not None:
            fidelity = ip.metrics.CLIPScore(clip)
        elif beside is not None and (beside / "clip" / "config.json").is_file():
            fidelity = ip.metrics.CLIPScore(beside / "clip")
        if sscd is not None:
            return cls(ip.metrics.SSCD(sscd), fidelity, PAPER_KEEPS)
        if beside is not None and (beside / "descriptor.pt").is_file():
            calibrated = json.loads((beside / "descriptor.json").read_text())
            native = ip.metrics.SSCD(beside / "descriptor.pt", "native")
            return cls(native, fidelity, calibrated["threshold"])
        return cls(ip.metrics.SSIM(), fidelity, PAPER_KEEPS)

    def references(
        self, images: Sequence[Image.Image | None], width: int, height: int
    ) -> list[Image.Image | None]:
        """Training images as the measure takes them: descriptors resize by themselves, SSIM not."""
        if isinstance(self.copy, ip.metrics.SSCD):
            return list(images)
        size = (width, height)
        return [None if image is None else image.resize(size, BICUBIC) for image in images]

    def metrics(self, seeds: int) -> dict[str, Any]:
        """By the name of their variable, for `interp.sweep`."""
        found = {"copy": self.copy}
        if self.clip is not None:
            found["clipscore"] = self.clip
        if seeds > 1:
            found["alike"] = ip.metrics.Diversity(self.copy)
        return found
