"""The pictures of the documentation, drawn by the embedded model as it is.

    python -m analyses.guide_figures --out docs/figures        # what `make docs` does

A picture beside a sentence, not a measurement: one or two captions, a few seeds.
"""

from pathlib import Path
from typing import Annotated

import typer
import xarray as xr

import interp as ip
from interp import attribute, plot
from interp.report.cases import known
from interp.report.measures import Measures

SEEDS, STEPS = 4, 25


def main(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("docs/figures"),
    seeds: int = SEEDS,
    steps: int = STEPS,
) -> xr.Dataset:
    """Draw all pictures.

    Returns:
        the images of one memorized caption with its pads gone in several ways.
    """
    sd = ip.load(steps=steps)
    cases = known(limit=4)
    one = [next(case for case in cases if case.kind == kind) for kind in ("memorized", "control")]
    a, b = sd.encode([case.text for case in one])

    pair = sd.run([a, b], seeds)
    absent = {
        "none": None,
        "zero": ip.zero("pad"),
        "mask": ip.mask("pad"),
        "mean": ip.mean("pad", over=sd.encode([case.text for case in cases])),
        "swap": ip.swap("pad", donor=b, align="nearest"),
        "repad": ip.repad("!", uncond=False),
    }
    gone = sd.run(a, seeds, absent)

    both = sd.run([case.text for case in cases], 2, record=ip.mass)
    both = both.assign_coords(kind=("prompt", [case.kind for case in cases]))

    copied = attribute.similarity(Measures.of("embedded").copy, one[0].image)
    game = attribute.shapley(sd, a, baseline=b, value=copied, seeds=seeds)
    traced = attribute.causal_trace(sd, a, absent["swap"], side=("k", "v"))
    change = traced["value"] - traced.clean

    figures = {
        "seeds": plot.image_grid(pair.image, rows="prompt", columns="seed"),
        "absence": plot.image_grid(gone.image.isel(prompt=0), rows="patch", columns="seed"),
        "mass": plot.mass_over_steps(both),
        "shapley": plot.shapley_bars(game),
        "map": plot.layer_step_map(change, label="change of |eps_c - eps_u|"),
    }
    for name, figure in figures.items():
        plot.save(figure, out, name)
    return gone


if __name__ == "__main__":
    typer.run(main)
