"""Every detector and mitigation of the field under one protocol, on any model and prompt list.

    rates, outcomes = benchmark.benchmark(sd, cases, measures, Path("out/benchmark"), seeds=2)

Or in parts:

    scores = benchmark.detectors(sd, cases, seeds=4, store="out/scores.zarr")
    edits = benchmark.made(benchmark.Known(sd, captions), benchmark.MITIGATIONS)
    grid = benchmark.mitigations(sd, cases, 4, "out/edits.zarr", sscd, edits)

Detectors are the rows of `detect.METHODS`, mitigations those of `benchmark.MITIGATIONS`: a new
one is in the tables with its line there. What is memorized is what the cases say: known on the
embedded model, the author's word elsewhere.
"""

from interp.benchmark.detectors import detectors, rates
from interp.benchmark.mitigations import mitigations, outcomes
from interp.benchmark.protocol import WORDINGS, benchmark
from interp.benchmark.registry import MITIGATIONS, Known, Mitigation, made
from interp.benchmark.retrigger import retrigger, retriggered

__all__ = [
    "MITIGATIONS",
    "WORDINGS",
    "Known",
    "Mitigation",
    "benchmark",
    "detectors",
    "made",
    "mitigations",
    "outcomes",
    "rates",
    "retrigger",
    "retriggered",
]
