"""Detectors' scores of a long list of prompts, in a store that survives a kill.

What `detect.scan` does, for lists on which it would take hours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import xarray as xr
from tqdm.auto import tqdm

from interp import detect
from interp.report.subject import Subject
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.sweep.plan import Plan, facts
from interp.sweep.store import Store


def scanned(
    session: Session, cases: Sequence[Subject], seeds: Seeds, store: str | os.PathLike[str]
) -> xr.DataArray:
    """Return every detector's score of every image, `score(detector, prompt, seed)`.

    Example:
        >>> scanned(sd, cases, 4, "out/scores.zarr").sel(detector="guidance norm")

    Args:
        session: pipeline and settings.
        cases: prompts with what is known of them; `kind` and `group` become coordinates.
        seeds: how many, or which.
        store: `*.zarr`; the same call continues it.

    Raises:
        InterpError: the session has too few steps or no guidance, or the store was begun under
            other settings.
    """
    detect.ready(session)
    chosen = chosen_seeds(seeds)
    prompts = [session.encode(case.text) for case in cases]
    labels: dict[str, Any] = {
        "kind": [case.kind for case in cases],
        "group": [case.group for case in cases],
    }
    nothing = Plan(chosen, {"none": None}, None, {}, (), False)
    texts = [case.text for case in cases]
    said = facts(session, nothing, prompts, texts, [None] * len(cases), labels)
    kept = Store(store, {**said, "detectors": list(detect.DETECTORS)})
    recorders = detect.recorders(session.pipe)
    with kept.alone():
        kept.check()
        missing = kept.missing()
        done = len(cases) - len(missing)
        with tqdm(total=len(cases), initial=done, unit="prompt", disable=None) as bar:
            for place in missing:
                trace = session.trace(prompts[place], chosen, record=recorders)
                found = detect.scores(trace).reset_coords(drop=True)
                kept.write(place, found.to_dataarray("detector", name="score").to_dataset())
                bar.update()
    return kept.open().score.load()
