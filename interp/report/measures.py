"""The networks used for measuring: those next to an embedded model, or the user's files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from interp.metrics import SSCD, SSIM, CLIPScore
from interp.report.cases import Case
from interp.session import Session
from interp.session.load import find
from interp.session.quiet import quiet

BICUBIC = Image.Resampling.BICUBIC
PAPER_KEEPS = 0.5
"""The SSCD similarity from which the paper calls an image memorized."""


@dataclass(frozen=True)
class Measures:
    """A copy descriptor, possibly a CLIP model, and the similarity from which images are copies.

    Without a descriptor images are compared by SSIM, which is crude: shifting an image by a few
    pixels makes it a different one.
    """

    copy: Any
    clip: Any | None
    keeps: float

    @classmethod
    def of(cls, model: str, sscd: Path | None = None, clip: Path | None = None) -> "Measures":
        """The measures for a model.

        Example:
            >>> Measures.of("embedded").copy(images, training_image)

        Args:
            model: as for `interp.load`; "" if the pipeline has no name.
            sscd, clip: the user's own, which take precedence.
        """
        folder = find(model) if model else None
        beside = None if folder is None else folder.parent
        fidelity = None
        if clip is not None:
            fidelity = CLIPScore(clip)
        elif beside is not None and (beside / "clip" / "config.json").is_file():
            with quiet():
                fidelity = CLIPScore(beside / "clip")
        if sscd is not None:
            return cls(SSCD(sscd), fidelity, PAPER_KEEPS)
        if beside is not None and (beside / "descriptor.pt").is_file():
            calibrated = json.loads((beside / "descriptor.json").read_text())
            native = SSCD(beside / "descriptor.pt", "native")
            return cls(native, fidelity, calibrated["threshold"])
        return cls(SSIM(), fidelity, PAPER_KEEPS)

    def fitted(self, cases: Sequence[Case], sd: Session) -> list[Case]:
        """The cases with their training images resized for SSIM, which needs equal sizes.

        Descriptors do their own resizing and receive the originals.
        """
        if isinstance(self.copy, SSCD):
            return list(cases)
        size = (sd.width, sd.height)
        return [
            case if case.image is None else replace(case, image=case.image.resize(size, BICUBIC))
            for case in cases
        ]
