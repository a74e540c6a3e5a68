"""Every detector and mitigation of the field under one protocol, on any model and prompt list.

    scores = benchmark.detectors(sd, cases, seeds=4, store="out/scores.zarr")
    grid = benchmark.mitigations(sd, cases, seeds=4, store="out/edits.zarr", similarity=sscd)

Detectors are the rows of `detect.METHODS`, mitigations those of `mitigations.registry`: a new
one is in the tables with its line there. What is memorized is what the cases say: known on the
embedded model, the author's word elsewhere.
"""

from interp.benchmark.detectors import detectors, rates
from interp.benchmark.mitigations import mitigations, outcomes

__all__ = ["detectors", "mitigations", "outcomes", "rates"]
