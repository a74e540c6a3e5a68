"""The benchmark's numbers as a page to read: one table of detectors, one of mitigations."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

OF_DETECTORS = {"AUC": "auc", "TPR at 1 % FPR": "tpr"}
OF_MITIGATIONS = {
    "copies left": "copies",
    "similarity": "similarity",
    "top 3": "top",
    "CLIPScore, freed": "freed",
    "CLIPScore, ordinary": "fidelity",
    "ordinary kept": "kept",
    "seeds alike": "alike",
}
COST = {"UNet rows": "rows", "seconds": "seconds", "needs": "needs"}


def page(rates: pd.DataFrame, outcomes: pd.DataFrame) -> str:
    """Return both tables as Markdown, best method first, every number with its 95 % interval.

    Example:
        >>> Path("benchmark.md").write_text(page(rates, outcomes))

    Args:
        rates: from `detectors.rates`; the page has all memorized prompts together, against each
            kind of prompts that are not.
        outcomes: from `mitigations.outcomes`.
    """
    parts = ["# Detectors"]
    for kind in rates.against.unique():
        shown = rates[(rates.views == "all") & (rates.against == kind)]
        shown = shown.sort_values("auc", ascending=False)
        parts += [f"Against {kind.replace('_', '-')} prompts.", _table(shown, OF_DETECTORS)]
    shown = outcomes.sort_values("copies")
    parts += ["# Mitigations", _table(shown, OF_MITIGATIONS)]
    return "\n\n".join(parts) + "\n"


def _table(rows: pd.DataFrame, columns: Mapping[str, str]) -> str:
    shown = pd.DataFrame({"method": rows[rows.columns[0]]})
    for title, name in columns.items():
        if name in rows:
            ends = zip(rows[name], rows[f"{name}_low"], rows[f"{name}_high"], strict=True)
            shown[title] = [_interval(*each) for each in ends]
    for title, name in COST.items():
        if name in rows:
            number = pd.api.types.is_numeric_dtype(rows[name])
            shown[title] = [f"{v:.3g}" if number else v for v in rows[name]]
    return shown.to_markdown(index=False, disable_numparse=True)


def _interval(value: float, low: float, high: float) -> str:
    if pd.isna(value):
        return ""
    return f"{value:.2f}" if pd.isna(low) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
