"""The calibration that a command answers with: the one given, or the one in the model's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.detect import Calibration
    from interp.session import Session


def levels(
    sd: Session, model: str, given: Path | None, seeds: int
) -> tuple[Calibration | None, str]:
    """The calibration, or None and why there is none.

    Raises:
        InterpError: one was given, and does not fit.
    """
    from interp.detect.calibration import FILE, Calibration
    from interp.session.load import find

    if given is not None:
        found = Calibration.open(given)
        found.check(sd, seeds)
        return found, ""
    folder = find(model)
    if folder is None or not (folder / FILE).is_file():
        return None, (
            f"There is no calibration of {model}: "
            f"`interp calibrate --model {model} --controls FILE` makes one."
        )
    found = Calibration.open(folder / FILE)
    if differs := found.differences(sd, seeds):
        return None, f"The calibration of {model} does not fit: {'; '.join(differs)}."
    return found, ""
