"""Detectors' scores for a long list of prompts, in a store that survives being killed.

Like `detect.scan`, for lists on which that would take hours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import xarray as xr

from interp import detect
from interp.report.subject import Subject
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.session.settings import of_unet
from interp.sweep.each_prompt import each_prompt


def scanned(
    session: Session,
    cases: Sequence[Subject],
    seeds: Seeds,
    store: str | os.PathLike[str],
    client: Any = None,
) -> xr.DataArray:
    """Return every detector's score for every image, `score(detector, prompt, seed)`.

    Example:
        >>> scanned(sd, cases, 4, "out/scores.zarr").sel(detector="guidance norm")

    Args:
        session: pipeline and settings.
        cases: the prompts and what is known about them; `kind` and `group` become coordinates.
        seeds: how many, or which.
        store: `*.zarr`; the same call continues it.
        client: a Dask client whose workers share the prompts.

    Raises:
        InterpError: the session has too few steps or no guidance, or the store was begun with other
            settings.
    """
    of_unet(session, "The scores of a report")
    detect.ready(session)
    labels = {name: [getattr(case, name) for case in cases] for name in ("kind", "group")}
    settings = {"detectors": list(detect.DETECTORS)}
    texts = [case.text for case in cases]
    return each_prompt(
        session,
        texts,
        seeds,
        store,
        partial(_scores, chosen_seeds(seeds)),
        labels=labels,
        settings=settings,
        client=client,
    ).score


def _scores(seeds: Sequence[int], session: Session, task: tuple[Any, None]) -> xr.Dataset:
    trace = session.trace(task[0], seeds, record=detect.recorders(session.pipe))
    found = detect.scores(trace).reset_coords(drop=True)
    return found.to_dataarray("detector", name="score").to_dataset()
