"""The field side by side: how well detectors tell, and what mitigations trade."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from interp.errors import InterpError
from interp.plot.style import COLUMN, PAGE, canvas, entry, legend, literal


def detector_rates(rates: pd.DataFrame, views: str = "all") -> Figure:
    """Area and true positive rate of every detector with 95 % intervals, the best one on top.

    Example:
        >>> plot.detector_rates(benchmark.rates(examined))

    Args:
        rates: from `benchmark.rates`.
        views: which level of views; "all" are all memorized prompts.

    Raises:
        InterpError: the table has no such level.
    """
    shown = rates[rates.views == views]
    if shown.empty:
        raise InterpError(
            f"The rates at views={views!r} were to be drawn.",
            f"The table has {', '.join(map(repr, rates.views.unique()))}.",
            "Choose one of them.",
        )
    order = shown.groupby("detector").auc.mean().sort_values().index.tolist()
    kinds = shown.against.unique().tolist()
    palette = sns.color_palette("colorblind", len(kinds))
    panels = (("auc", "AUC"), ("tpr", "TPR at 1 % FPR"))
    with canvas(1, 2, PAGE, 0.9 + 0.2 * len(order), sharey=True) as (figure, axes):
        for ax, (value, label) in zip(axes[0], panels, strict=True):
            for number, (kind, colour) in enumerate(zip(kinds, palette, strict=True)):
                of = shown[shown.against == kind].set_index("detector").loc[order]
                height = np.arange(len(order)) + 0.25 * (number - (len(kinds) - 1) / 2)
                ends = np.abs(of[[f"{value}_low", f"{value}_high"]].to_numpy().T - of[value].values)
                ax.errorbar(
                    of[value], height, xerr=np.nan_to_num(ends), fmt="o", markersize=3,
                    linewidth=0.8, color=colour, label=entry(f"against {kind.replace('_', '-')}"),
                )  # fmt: skip
            ax.set(xlim=(-0.02, 1.02), xlabel=label)
            ax.grid(axis="x", linewidth=0.3, color="#dddddd")
        axes[0, 0].axvline(0.5, color="#bbbbbb", linestyle=":", linewidth=0.8)
        axes[0, 0].set_yticks(range(len(order)), [literal(name) for name in order])
        legend(figure, axes[0, 0])
    return figure


def detector_levels(rates: pd.DataFrame) -> Figure:
    """Area of every detector at every level of views, a panel for each kind of other prompts.

    Example:
        >>> plot.detector_levels(benchmark.rates(scores))

    Args:
        rates: from `benchmark.rates`.
    """
    kinds = rates.against.unique().tolist()
    levels = rates.views.unique().tolist()
    order = rates.groupby("detector").auc.mean().sort_values(ascending=False).index
    width = min(PAGE, 3.4 + len(kinds) * (0.5 + 0.36 * len(levels)))
    with canvas(1, len(kinds), width, 1.2 + 0.19 * len(order), sharey=True) as (figure, axes):
        for number, (ax, kind) in enumerate(zip(axes[0], kinds, strict=True)):
            of = rates[rates.against == kind].pivot(index="detector", columns="views", values="auc")
            sns.heatmap(
                of.reindex(index=order, columns=levels), vmin=0, vmax=1, center=0.5, cmap="vlag",
                annot=True, fmt=".2f", annot_kws={"fontsize": 5.5}, linewidths=0.4,
                cbar=number == len(kinds) - 1, cbar_kws={"label": "AUC"}, ax=ax,
            )  # fmt: skip
            ax.set(xlabel="views of the training image", ylabel="")
            ax.set_title(entry(f"against {kind.replace('_', '-')}"))
            ax.set_yticks(ax.get_yticks(), [literal(name) for name in order], rotation=0)
    return figure


def frontier(outcomes: pd.DataFrame) -> Figure:
    """Copies that mitigations leave, against what ordinary prompts lose: the lower right is better.

    Example:
        >>> plot.frontier(benchmark.outcomes(mitigated, 0.5, 100))

    Args:
        outcomes: from `benchmark.outcomes`, with `fidelity` or at least `kept`.

    A line joins the mitigations that no other one beats in both.

    Raises:
        InterpError: nothing is known of ordinary prompts.
    """
    across = next((name for name in ("fidelity", "kept") if name in outcomes), None)
    if across is None:
        raise InterpError(
            "Mitigations were to be drawn by what ordinary prompts lose.",
            "The table knows of no ordinary prompts.",
            "Run the benchmark with controls.",
        )
    labels = {"fidelity": "change of CLIPScore, ordinary prompts",
              "kept": "similarity to the unedited image, ordinary prompts"}  # fmt: skip
    table = outcomes.sort_values(["copies", across], ascending=[True, False]).reset_index(drop=True)
    palette = sns.color_palette("husl", len(table))
    with canvas(1, 1, PAGE * 0.72, COLUMN + 0.16 * len(table)) as (figure, axes):
        ax = axes[0, 0]
        best = table[[_unbeaten(row, table, across) for row in table.itertuples()]]
        ax.plot(best[across], best.copies, color="#bbbbbb", linewidth=0.8, zorder=0)
        for number, (row, colour) in enumerate(zip(table.itertuples(), palette, strict=True), 1):
            x, y = getattr(row, across), row.copies
            spread = {
                "xerr": [[abs(x - getattr(row, f"{across}_low"))],
                         [abs(getattr(row, f"{across}_high") - x)]],
                "yerr": [[abs(y - row.copies_low)], [abs(row.copies_high - y)]],
            }  # fmt: skip
            ax.errorbar(
                x, y, **{k: np.nan_to_num(v) for k, v in spread.items()}, fmt="o", color=colour,
                markersize=4, linewidth=0.6, label=entry(f"{number}  {row.mitigation}"),
            )  # fmt: skip
            ax.annotate(str(number), (x, y), (3, 3), textcoords="offset points", fontsize=6)
        ax.set(ylim=(-0.03, 1.03), xlabel=labels[across], ylabel="memorized images still copied")
        legend(figure, ax, columns=3)
    return figure


def _unbeaten(row: object, table: pd.DataFrame, across: str) -> bool:
    """Whether no other mitigation leaves fewer copies and loses less."""
    copies, kept = row.copies, getattr(row, across)  # type: ignore[attr-defined]
    no_worse = (table.copies <= copies) & (table[across] >= kept)
    better = (table.copies < copies) | (table[across] > kept)
    return not bool((no_worse & better).any())
