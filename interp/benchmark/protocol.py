"""The benchmark as a whole: which prompts judge, which are only fitted on, and what is written.

One protocol for all methods, so that two rows of a table differ by the method alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from interp import plot
from interp.benchmark.detectors import detectors, rates
from interp.benchmark.mitigations import ORDINARY, mitigations, outcomes
from interp.benchmark.registry import MITIGATIONS, Known, Mitigation, made
from interp.benchmark.retrigger import retriggered
from interp.benchmark.tables import page
from interp.detect import METHODS, Method
from interp.report.cases import Case, top
from interp.report.measures import Measures
from interp.session import Session
from interp.text.paraphrase import exchanged, reordered, shortened

log = logging.getLogger(__name__)

WORDINGS: Mapping[str, Callable[[str, Sequence[str]], str]] = {
    "original": lambda text, others: text,
    "reordered": lambda text, others: reordered(text),
    "shortened": lambda text, others: shortened(text),
    "exchanged": exchanged,
}
"""What memorized prompts are called when they are judged: as they were trained, the ending first,
without it, or with the first word of another title."""


def benchmark(
    session: Session,
    cases: Sequence[Case],
    measures: Measures,
    out: Path,
    seeds: int = 2,
    *,
    wording: str = "original",
    retrigger: int = 0,
    client: AbstractContextManager[Any] | None = None,
    scored: Mapping[str, Method] = METHODS,
    edits: Mapping[str, Mitigation] = MITIGATIONS,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run every detector and mitigation, and write stores, tables and figures.

    Example:
        >>> rates, outcomes = benchmark(sd, population(12), Measures.of("embedded"), Path("out"))

    The last eight ordinary prompts, a quarter of them at most, and every fourth memorized prompt of
    the two most shown levels are set apart for methods that are fitted: they judge no mitigation.

    Args:
        session: pipeline and settings.
        cases: prompts with what is known of them.
        measures: how images are compared.
        out: folder for `detectors.csv`, `mitigations.csv`, `benchmark.md`, `figures` and stores;
            run again, it goes on where it was.
        seeds: images of each prompt.
        wording: one of `WORDINGS`; it changes what memorized prompts are called, and nothing else.
        retrigger: so many memorized prompts are searched for embeddings that bring their images
            back under the patches, into `retriggered.csv`.
        client: a context that gives a Dask client, or None, for the mitigations.
        scored, edits: the methods.

    Returns:
        `detectors.rates` and `mitigations.outcomes`.
    """
    out.mkdir(parents=True, exist_ok=True)
    cases, ordinary = set_apart(measures.fitted(cases, session))
    fitted = [case for case in top(cases) if case.kind == "memorized"][3::4]
    judged = [reworded(case, wording, ordinary) for case in cases]
    log.info("detectors on %d prompts", len(judged))
    scores = detectors(session, judged, seeds, out / "scores.zarr", scored, reference=ordinary)
    table = rates(scores)
    table.to_csv(out / "detectors.csv", index=False, float_format="%.6g")
    plot.save(plot.detector_rates(table), out / "figures", "detectors")
    plot.save(plot.detector_levels(table), out / "figures", "levels")
    log.info("fitting what is fitted, on %d and %d prompts", len(fitted), len(ordinary))
    known = Known(
        session, tuple(ordinary), tuple(fitted), measures.copy, measures.keeps, out / "fitted"
    )
    patches = made(known, edits)
    judged = [reworded(case, wording, ordinary) for case in judges(top(cases), fitted)]
    log.info("%d mitigations on %d prompts", len(patches), len(judged))
    with client or nullcontext() as several:
        grid = mitigations(
            session, judged, seeds, out / "edits.zarr", measures.copy, patches,
            fidelity=measures.clip, client=several,
        )  # fmt: skip
    outcome = outcomes(grid, measures.keeps, session.steps, edits, guided=session.guided)
    outcome.to_csv(out / "mitigations.csv", index=False, float_format="%.6g")
    plot.save(plot.frontier(outcome), out / "figures", "frontier")
    if retrigger:
        sought = [case for case in judged if case.kind == "memorized"][:retrigger]
        log.info("embeddings that bring back the images of %d prompts", len(sought))
        back = retriggered(session, sought, patches, measures.copy, measures.keeps, seeds)
        back.to_csv(out / "retriggered.csv", index=False, float_format="%.6g")
    (out / "benchmark.md").write_text(page(table, outcome), encoding="utf-8")
    log.info("done: %s", out)
    return table, outcome


def set_apart(cases: Sequence[Case]) -> tuple[list[Case], list[str]]:
    """Cases that judge, and ordinary prompts for methods that compare with some.

    Example:
        >>> judged, ordinary = set_apart(population(12))
    """
    kinds = [kind for kind in ORDINARY if any(case.kind == kind for case in cases)]
    ordinary = [case for case in cases if kinds and case.kind == kinds[0]]
    apart = ordinary[len(ordinary) - min(8, len(ordinary) // 4) :]
    return [case for case in cases if case not in apart], [case.text for case in apart]


def judges(cases: Sequence[Case], fitted: Sequence[Case]) -> list[Case]:
    """Memorized cases that nothing is fitted on, and as many ordinary ones of the preferred kind.

    Example:
        >>> {case.kind for case in judges(population(12), fitted=[])}
        {'memorized', 'held_out'}
    """
    memorized = [case for case in cases if case.kind == "memorized" and case not in fitted]
    kinds = [kind for kind in ORDINARY if any(case.kind == kind for case in cases)]
    ordinary = [case for case in cases if case.kind in kinds[:1]]
    return memorized + ordinary[: len(memorized)]


def reworded(case: Case, wording: str, others: Sequence[str]) -> Case:
    """A memorized case under another wording; others as they are.

    Example:
        >>> reworded(case, "shortened", []).text
        'Classic Orchard Area Rug'
    """
    if case.kind != "memorized":
        return case
    return replace(case, text=WORDINGS[wording](case.text, others))
