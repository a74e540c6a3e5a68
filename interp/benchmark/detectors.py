"""How well every detector tells memorized prompts from others, and what it costs."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from interp import detect
from interp.detect import METHODS, Case, Method
from interp.report.subject import Subject
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.sweep.each_prompt import each_prompt
from interp.text.prompt import Prompt

ALL = "all"


def detectors(
    session: Session,
    cases: Sequence[Subject],
    seeds: Seeds,
    store: str | os.PathLike[str],
    methods: Mapping[str, Method] = METHODS,
    *,
    reference: Sequence[str] = (),
) -> xr.Dataset:
    """Return every detector's score of every image, and the seconds that each took.

    Example:
        >>> scores = detectors(sd, cases, 4, "out/scores.zarr")
        >>> scores.score.sel(detector="sharpness").mean("seed")

    Args:
        session: pipeline and settings.
        cases: prompts with what is known of them.
        seeds: how many, or which; at least two, where a detector compares seeds.
        store: `*.zarr`; the same call continues it.
        methods: the detectors by name.
        reference: prompts that are not memorized and none of the cases, for detectors that compare
            with such prompts' runs.

    Returns:
        `score(detector, prompt, seed)`, one number for all seeds where a detector gives one, and
        NaN where a prompt has not what it needs (a training image, a reference);
        `seconds(detector, prompt)` for all seeds, without the run that several share; `run_seconds
        (prompt)`, that run's; and `kind`, `group` and `views` of every prompt. `rows(detector)` is
        what a detector costs alone, in UNet rows a seed.

    Raises:
        InterpError: the store was begun under other settings.
    """
    chosen, usual = chosen_seeds(seeds), None
    if reference:
        recorders = detect.recorders(session.pipe)
        usual = session.trace(list(reference), chosen, record=recorders, half=False)

    def scores(number: int, prompt: Prompt) -> xr.Dataset:
        training = cases[number].image
        return _examined(Case(session, prompt, chosen, training=training, controls=usual), methods)

    found = each_prompt(
        session,
        [case.text for case in cases],
        chosen,
        store,
        scores,
        labels={name: [getattr(c, name) for c in cases] for name in ("kind", "group", "views")},
        settings={"detectors": list(methods), "reference": list(reference)},
    )
    rows = [method.cost(session) for method in methods.values()]
    return found.assign_coords(rows=("detector", rows))


def _examined(case: Case, methods: Mapping[str, Method]) -> xr.Dataset:
    """One prompt by every detector, each timed by itself."""
    began = time.perf_counter()
    if any({"run", "images"} & set(method.needs) for method in methods.values()):
        _ = case.trace
    run = time.perf_counter() - began
    scores, seconds = [], []
    for name, method in methods.items():
        if method.lacks(case):
            scores.append(np.full(len(case.seeds), np.nan))
            seconds.append(np.nan)
            continue
        began = time.perf_counter()
        found = detect.examine(case, {name: method})[name]
        seconds.append(time.perf_counter() - began)
        scores.append(found.broadcast_like(xr.DataArray(list(case.seeds), dims="seed")).values)
    return xr.Dataset(
        {
            "score": (("detector", "prompt", "seed"), np.array(scores)[:, None]),
            "seconds": (("detector", "prompt"), np.array(seconds)[:, None]),
            "run_seconds": ("prompt", [run]),
        },
        {"detector": list(methods), "seed": list(case.seeds)},
    )


def rates(scores: xr.Dataset, fpr: float = 0.01) -> pd.DataFrame:
    """Return area and true positive rate of every detector, by level of views and kind of control.

    Example:
        >>> table = rates(scores)
        >>> table[(table.views == "all") & (table.against == "control")].sort_values("auc")

    Args:
        scores: from `detectors`.
        fpr: the false positive rate at which true positives are counted.

    Returns:
        A row for each detector, level (`views`; "all" are all memorized prompts) and kind of
        prompts that are not memorized (`against`), with 95 % intervals by training image, and the
        detector's cost: UNet rows and seconds a seed, its run included, and what it needs.
    """
    kinds = [kind for kind in dict.fromkeys(scores.kind.values.tolist()) if kind != "memorized"]
    memorized = scores.isel(prompt=np.flatnonzero(scores.kind == "memorized"))
    known = sorted({int(views) for views in memorized.views.values if views >= 0})
    levels = {ALL: memorized}
    if len(known) > 1:
        levels |= {
            str(v): memorized.isel(prompt=np.flatnonzero(memorized.views == v)) for v in known
        }
    rows: list[dict[str, Any]] = []
    for name in scores.detector.values.tolist():
        cost = _cost(scores.sel(detector=name))
        for kind in kinds:
            control = scores.isel(prompt=np.flatnonzero(scores.kind == kind))
            for level, of in levels.items():
                sides = [side.score.sel(detector=name, drop=True) for side in (of, control)]
                if any(bool(side.isnull().any()) for side in sides):
                    continue  # these prompts have not what the detector needs
                curve = detect.roc(*sides, fpr=(fpr,))
                at = curve.sel(fpr=fpr)
                found = {end: float(curve[end]) for end in ("auc", "auc_low", "auc_high")}
                found |= {end: float(at[end]) for end in ("tpr", "tpr_low", "tpr_high")}
                rows.append({"detector": name, "against": kind, "views": level, **found, **cost})
    return pd.DataFrame(rows)


def _cost(of: xr.Dataset) -> dict[str, Any]:
    """UNet rows and seconds a seed, of one detector used alone, and what it needs."""
    method = METHODS.get(str(of.detector.item()))
    whole = method is not None and bool({"run", "images"} & set(method.needs))
    seconds = of.seconds + (of.run_seconds if whole else 0)
    return {
        "rows": int(of.rows),
        "seconds": float(seconds.median()) / of.sizes["seed"],
        "needs": ", ".join(method.needs) if method else "",
    }
