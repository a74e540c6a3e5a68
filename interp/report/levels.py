"""The calibration to use: the user's, or the one in the model's folder."""

from pathlib import Path

from interp.detect.calibration import FILE, Calibration
from interp.session import Session
from interp.session.load import find


def levels(
    sd: Session, model: str, given: Path | None, seeds: int
) -> tuple[Calibration | None, str]:
    """The calibration, or None and the reason.

    Example:
        >>> calibrated, missing = levels(sd, "embedded", None, seeds=4)

    Raises:
        InterpError: the user's calibration does not fit.
    """
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
