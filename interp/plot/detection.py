"""How well detectors work: their scores by kind of prompt, and their ROC curves."""

from collections.abc import Mapping

import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from interp.errors import InterpError
from interp.plot.style import (
    COLUMN,
    KIND,
    PAGE,
    canvas,
    colours,
    entry,
    kinds,
    legend,
    literal,
    panels,
)


def roc(curves: xr.Dataset | Mapping[str, xr.Dataset]) -> Figure:
    """ROC curves with intervals clustered by training image; a dot marks TPR@1%FPR.

    Example:
        >>> plot.roc({"guidance norm": detect.roc(a, b, groups), "D": detect.roc(c, d, groups)})

    Args:
        curves: from `detect.roc`; several by name. Bands are drawn for up to two curves, because
            more would hide each other; the legend has the interval of every AUC.
    """
    named = {"": curves} if isinstance(curves, xr.Dataset) else dict(curves)
    with canvas(1, 1, COLUMN, COLUMN - 0.2 + 0.15 * len(named)) as (figure, axes):
        ax = axes[0, 0]
        ax.plot([0, 1], [0, 1], color="#bbbbbb", linestyle=":", linewidth=0.8)
        palette = sns.color_palette("colorblind", len(named))
        for (name, curve), colour in zip(named.items(), palette, strict=True):
            at = curve.sel(fpr=0.01, method="nearest")
            label = f"{entry(name)}: " if name else ""
            label += f"{_three(curve.auc)} [{_three(curve.auc_low)}, {_three(curve.auc_high)}]"
            label += f"; {float(at.tpr):.2f}"
            steps = {"drawstyle": "steps-post", "color": colour}
            ax.plot(curve.fpr, curve.tpr, label=label, **steps)
            if len(named) <= 2:
                band = {"step": "post", "color": colour, "alpha": 0.18, "linewidth": 0}
                ax.fill_between(curve.fpr, curve.tpr_low, curve.tpr_high, **band)
            ax.plot(at.fpr, at.tpr, "o", color=colour, clip_on=False)
        ax.set(xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="false positive rate")
        ax.set_ylabel("true positive rate")
        ax.set_aspect("equal")
        legend(figure, ax, columns=1, title="AUC [95 % interval]; TPR at 1 % FPR")
    return figure


def detector_scores(
    scores: xr.DataArray | xr.Dataset, threshold: float | Mapping[str, float] | None = None
) -> Figure:
    """Histograms of scores by kind of prompt, one panel per detector, with thresholds.

    Example:
        >>> threshold = detect.calibrate(scores.where(scores.kind == "control", drop=True))
        >>> plot.detector_scores(scores, threshold)

    Args:
        scores: over (prompt) or (prompt, seed), with `kind` on the prompts; several as a dataset.
        threshold: drawn as a line; by detector if there are several. Panels say what share of each
            kind is above it.

    Raises:
        InterpError: prompts have no kind.
    """
    shown = panels(scores)
    if KIND not in scores.coords:
        raise InterpError(
            "Cannot draw scores by kind of prompt.",
            "Their prompts have no coordinate 'kind'.",
            'Add it: scores.assign_coords(kind=("prompt", ["memorized", ...])).',
        )
    given = threshold if isinstance(threshold, Mapping) else dict.fromkeys(shown, threshold)
    rows = -(-len(shown) // 2)
    columns = min(2, len(shown))
    width = COLUMN if columns == 1 else PAGE
    with canvas(rows, columns, width, 0.5 + 1.8 * rows) as (figure, axes):
        for ax, (name, values) in zip(axes.flat, shown.items(), strict=False):
            table = values.to_dataframe(name="score").reset_index()
            # By number: names may be any text, and some texts mean something to seaborn.
            names = list(kinds(values))
            table[KIND] = table[KIND].map({name: n for n, name in enumerate(names)})
            shades = list(colours(names).values())
            said = [literal(name) for name in names]
            sns.histplot(
                table,
                x="score",
                hue=KIND,
                hue_order=range(len(names)),
                palette=shades,
                stat="proportion",
                common_norm=False,
                element="step",
                bins=30,
                alpha=0.35,
                linewidth=0.8,
                ax=ax,
            )
            ax.set(xlabel=literal(name) or "score", ylabel="share")
            key = ax.get_legend()
            marks = key.legend_handles
            key.remove()
            line = given.get(name)
            if line is not None:
                ax.axvline(line, color="black", linewidth=0.8, linestyle="--")
                flagged = [(values.isel(prompt=of.values) > line) for of in kinds(values).values()]
                above = [f"{float(f.mean()):.0%} {n}" for n, f in zip(said, flagged, strict=True)]
                ax.set_title(literal("above: " + ", ".join(above)))
        for ax in axes.flat[len(shown) :]:
            ax.set_axis_off()
        figure.legend(marks, said, loc="outside lower center", ncols=len(said))
    return figure


def _three(number: xr.DataArray) -> str:
    return f"{float(number):.3f}"
