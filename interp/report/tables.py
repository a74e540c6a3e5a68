"""One table in three files: CSV with plain numbers, Markdown and LaTeX with readable intervals."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import xarray as xr

from interp import paper
from interp.results import intervals
from interp.text.markup import latex, markdown


def effects(grid: xr.Dataset, values: dict[str, xr.DataArray], by: str = "kind") -> pd.DataFrame:
    """Mean and 95 % interval of every value, by patch and kind of prompt, in long form.

    Example:
        >>> effects(grid, {"to unedited": grid["copy"].sel(reference="baseline")}).head(1)
          patch       kind        value  mean   low  high  prompts

    Args:
        grid: a sweep with `kind` and `group` on its prompts.
        values: over (patch, prompt[, seed]), by column name.
        by: the label of prompts to group by, such as "views".
    """
    rows = []
    for kind in dict.fromkeys(grid[by].values.tolist()):
        for name, value in values.items():
            of = value.isel(prompt=(grid[by] == kind).values.nonzero()[0])
            found = intervals.mean(of)
            for patch in grid.patch.values:
                at = found.sel(patch=patch)
                ends = {end: float(at[end]) for end in ("mean", "low", "high")}
                what = {"patch": str(patch), by: kind, "value": name}
                rows.append({**what, **ends, "prompts": of.sizes["prompt"]})
    return pd.DataFrame(rows)


def readable(long: pd.DataFrame, published: dict[str, float | None], keeps: float) -> pd.DataFrame:
    """The same as a readable table: a row per patch, the paper's figure, and whether they agree.

    Args:
        long: from `effects`.
        published: the paper's similarity to the unedited image by patch; None if unknown.
        keeps: the similarity from which an image counts as kept in this model's measure; the
            paper's is 0.5. If our interval contains it, agreement is "unclear".
    """
    text = long.assign(text=[interval(row) for row in long.itertuples()])
    wide = text.pivot_table(
        index="patch", columns=["kind", "value"], values="text", aggfunc="first", sort=False
    )
    wide.columns = [f"{value} ({kind})" for kind, value in wide.columns]
    ours = long[(long.kind == "memorized") & (long.value == "to unedited")].set_index("patch")
    wide = wide.loc[:, (wide != "").any()]
    wide["paper"] = [
        "" if published.get(patch) is None else f"{published[patch]:.2f}" for patch in wide.index
    ]
    wide["agrees"] = [_agrees(ours.loc[patch], published.get(patch), keeps) for patch in wide.index]
    return wide.reset_index()


def by_level(long: pd.DataFrame, value: str) -> pd.DataFrame:
    """One value with a column per number of views: does an edit's effect depend on the dose?

    Args:
        long: from `effects(..., by="views")`.
        value: which of the values.
    """
    text = long.assign(text=[interval(row) for row in long.itertuples()])
    wide = text[text.value == value].pivot(index="patch", columns="views", values="text")
    wide.columns = [f"{views} views" for views in wide.columns]
    return wide.loc[long.patch.unique()].reset_index()


def interval(row) -> str:
    """A mean and its interval, as text."""
    if row.mean != row.mean:  # not measured, such as similarity to an unknown image
        return ""
    if row.low != row.low:  # one group has no interval
        return f"{row.mean:.2f}"
    return f"{row.mean:.2f} [{row.low:.2f}, {row.high:.2f}]"


def _agrees(ours: pd.Series, theirs: float | None, keeps: float) -> str:
    if theirs is None:
        return ""
    if ours.low <= keeps <= ours.high:
        return "unclear"
    return "yes" if (ours["mean"] >= keeps) == (theirs >= 0.5) else "no"


def write(long: pd.DataFrame, wide: pd.DataFrame, folder: Path, name: str) -> Sequence[Path]:
    """Write `name.csv` (long), `name.md` and `name.tex` (readable, edits spelled out)."""
    wide = wide.assign(patch=wide.patch.map(paper.label))
    paths = [folder / f"{name}.{ending}" for ending in ("csv", "md", "tex")]
    long.to_csv(paths[0], index=False, float_format="%.6g", lineterminator="\n")
    plain = wide.rename(columns=markdown).assign(patch=wide.patch.map(markdown))
    # Cells are text: as numbers, 0.10 would be written 0.1.
    text = plain.to_markdown(index=False, disable_numparse=True)
    paths[1].write_text(text + "\n")
    escaped = wide.rename(columns=latex).map(latex)
    # Arrows in the paper's names stay arrows.
    arrows = {latex(name): latex(name).replace(latex("<-"), r"$\leftarrow$") for name in _papers()}
    escaped = escaped.assign(patch=escaped.patch.replace(arrows))
    paths[2].write_text(escaped.to_latex(index=False, escape=False))
    return paths


def cell(value: object) -> str:
    """A value as text for a cell of a Markdown table."""
    return markdown(str(value))


def _papers() -> list[str]:
    return [paper.label(letter) for letter in paper.titles()]
