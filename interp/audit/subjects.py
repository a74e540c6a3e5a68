"""From an audit to the prompts of a report: what was memorized, and captions that were not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from interp.audit.pairs import Pair
from interp.detect.calibration import CLEAN, MEMORIZED
from interp.report.cases import Case


def subjects(found: xr.Dataset, pairs: Sequence[Pair], limit: int | None = None) -> list[Case]:
    """Return the memorized captions, those with most copies first, and as many that are not.

    Example:
        >>> [case.kind for case in subjects(audited, pairs)]     # memorized ones first
    """
    cases = []
    order = np.lexsort((-found.shown.values, -found.copied.values))
    for verdict, kind in ((MEMORIZED, "memorized"), (CLEAN, "control")):
        chosen = [number for number in order if found.verdict.values[number] == verdict]
        for number in chosen[:limit]:
            at = found.isel(prompt=number)
            image = pairs[int(at.pair)].image()
            text, group = str(at.text.item()), str(at.group.item())
            cases.append(Case(text, kind, group, image, int(at.shown)))
    return cases
