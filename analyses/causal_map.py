"""Where, when and through what do embeddings drive memorization?

    python -m analyses.causal_map                              # the embedded model, into out/causal

Exact Shapley values of the four categories; the causal map over layers, steps and sides, exact and
estimated; and how well the two agree.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
import xarray as xr
from matplotlib.figure import Figure

import interp as ip
from interp import attribute, plot, results
from interp.cli.options import (
    Controls,
    Descriptor,
    Device,
    Dtype,
    Limit,
    Model,
    Seeds,
    Steps,
    Suspects,
)
from interp.report.cases import Case, chosen
from interp.report.measures import Measures
from interp.results import intervals

PATCHED = ("prompt", "eot", "pad")
"""The start token is every prompt's: exchanging it changes nothing."""


OUT = Path("out/causal")


def main(
    model: Model = "embedded",
    prompts: Suspects = None,
    controls: Controls = None,
    out: Annotated[Path, typer.Option(help="Folder for the dataset, tables and figures.")] = OUT,
    limit: Limit = 6,
    seeds: Seeds = 2,
    steps: Steps = 50,
    sscd: Descriptor = None,
    device: Device = None,
    dtype: Dtype = None,
) -> xr.Dataset:
    """Attribute memorization, and write datasets, tables and figures.

    Returns: `phi` and `interaction` of the categories, and the `exact` map and its `estimate`
    of the map, with `spearman`; also in `out/causal.nc`.
    """
    out.mkdir(parents=True, exist_ok=True)
    sd = ip.load(model, dtype, device, steps=steps)
    cases = chosen(prompts, controls, limit)
    measures = Measures.of(model, sscd)
    cases = measures.fitted(cases, sd)
    memorized = [case for case in cases if case.kind == "memorized"]
    others = [case for case in cases if case.kind == "control"]
    if not others:
        raise ip.InterpError(
            "A causal map was asked for.",
            "There is no control prompt, whose embeddings would be the donor's.",
            "Give a file of prompts that are not memorized: --controls.",
        )
    donor = sd.encode(others[0].text)
    games = contributions(sd, memorized, donor, seeds, measures.copy)
    both = maps(sd, memorized, donor, seeds)
    for name, figure in figures(games, both).items():
        plot.save(figure, out / "figures", name)
    tables(games, both, out)
    found = results.stamp(
        xr.merge([games.drop_vars("worth"), both], combine_attrs="drop").assign_attrs(both.attrs),
        **results.provenance(games), analysis="causal_map",
    )  # fmt: skip
    ip.save(found, out / "causal.nc")
    return found


def contributions(
    sd: ip.Session, cases: Sequence[Case], donor: ip.Prompt, seeds: int, copy: ip.metrics.Metric
) -> xr.Dataset:
    """Shapley values of the categories for the similarity to each prompt's own training image.

    Where the image is not known, to the unedited generation.
    """
    games = []
    for case in cases:
        value = attribute.similarity(copy, case.image)
        games.append(attribute.shapley(sd, case.text, donor, value, seeds=range(seeds)))
    bare = [game.drop_vars(["phi_interval", "interaction_interval"]) for game in games]
    joined = xr.concat(
        bare, "prompt", coords="minimal", compat="override", combine_attrs="override"
    )
    joined = joined.assign_coords(
        prompt=range(len(cases)), group=("prompt", [case.group for case in cases])
    )
    for name in ("phi", "interaction"):
        ends = intervals.mean(joined[name])
        joined[f"{name}_interval"] = xr.concat([ends.low, ends.high], "bound")
    return joined


def maps(sd: ip.Session, cases: Sequence[Case], donor: ip.Prompt, seeds: int) -> xr.Dataset:
    """The change of `|eps_c - eps_u|` in every cell, exact and to first order."""
    patches = {name: ip.swap(name, donor, "nearest") for name in PATCHED}
    texts = [case.text for case in cases]
    exact = attribute.causal_trace(sd, texts, patches, side=("k", "v"), seeds=range(seeds))
    estimate = attribute.attribution_patching(sd, texts, patches, seeds=range(seeds))
    both = attribute.agreement(exact, estimate)
    both["clean"] = exact.clean
    both["heads"] = attribute.together(estimate, ["category"])
    cost = ("unet_rows", "unet_rows_naive")
    both.attrs = {f"exact_{name}": exact.attrs[name] for name in cost}
    both.attrs |= {f"estimate_{name}": estimate.attrs[name] for name in cost}
    return both.assign_coords(group=("prompt", [case.group for case in cases]))


def figures(games: xr.Dataset, both: xr.Dataset) -> dict[str, Figure]:
    """Every figure by file name."""
    unit = "change of |eps_c - eps_u|"
    by_category = both.exact.sum(["side", "layer"]).rename(patch="category")
    return {
        "shapley": plot.shapley_bars(games),
        "map": plot.layer_step_map(both.exact, columns="patch", label=unit),
        "map_estimate": plot.layer_step_map(both.estimate, columns="patch", label=unit),
        "heads": plot.head_grid(both.heads.sum(["side", "step"]), columns="patch", label=unit),
        "running_sum": plot.running_sum(by_category, label=unit),
        "agreement": plot.agreement_scatter(both),
    }


def tables(games: xr.Dataset, both: xr.Dataset, out: Path) -> None:
    """Write `shapley.md` and `where.md`: by category; by side, layer and third of the run."""
    phi = intervals.mean(games.phi)
    shares = pd.DataFrame({"Shapley value": _read(phi)}, index=games.player.values)
    (out / "shapley.md").write_text(shares.to_markdown() + "\n")
    third = both.sizes["step"] / 3
    when = xr.DataArray(
        [f"third {int(step / third) + 1}" for step in range(both.sizes["step"])], dims="step"
    )
    totals = {
        **{f"through {s}": both.exact.sel(side=s).sum(["layer", "step"]) for s in ("k", "v")},
        **{f"in {n}": both.exact.sel(layer=n).sum(["side", "step"]) for n in both.layer.values},
        **{
            f"steps, {n}": both.exact.where(when == n, 0).sum(["side", "layer", "step"])
            for n in dict.fromkeys(when.values.tolist())
        },
    }
    rows = {name: _read(intervals.mean(total)) for name, total in totals.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=both.patch.values)
    (out / "where.md").write_text(frame.to_markdown() + "\n")


def _read(found: xr.Dataset) -> list[str]:
    ends = (found["mean"].values, found.low.values, found.high.values)
    return [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in zip(*ends, strict=True)]


if __name__ == "__main__":
    typer.run(main)
