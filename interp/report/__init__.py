"""The report for people who do not run code: one HTML file, its figures, and the data behind both.

    data = report.collect(sd, cases, store="out/report/edits.zarr", similarity=sscd, threshold=0.5)
    report.render(data, "out/report")              # report.html and figures, without a model

Two steps, so that looking at numbers does not need the model that made them: everything shown is in
the dataset, including the verdicts.
"""

from interp.report.ablation import ablation
from interp.report.cases import Case, chosen
from interp.report.collect import collect, edited, observe
from interp.report.edits import edits
from interp.report.generate import generate
from interp.report.page import render
from interp.report.subject import Subject

__all__ = [
    "Case", "Subject", "ablation", "chosen", "collect", "edited", "edits", "generate", "observe",
    "render",
]  # fmt: skip
