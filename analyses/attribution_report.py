"""The report for people who run no code: which prompts are memorized, why, and what helps.

    python -m analyses.attribution_report                     # the embedded model, into out/report
    python -m analyses.attribution_report --model CompVis/stable-diffusion-v1-4 \
        --prompts memorized.csv --controls controls.csv --sscd sscd_disc_mixup.torchscript.pt
    python -m analyses.attribution_report --from out/report/report.nc      # again, without a model
"""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
import xarray as xr

import interp as ip
from analyses.cases import chosen
from analyses.measures import Measures
from interp import report
from interp.cli.options import (
    Clip,
    Controls,
    Descriptor,
    Device,
    Dtype,
    Limit,
    Model,
    Store,
    Suspects,
)

DATA = "report.nc"
#: Pictures are most of the dataset, and the only variables that shrink.
PACKED = {"zlib": True, "complevel": 4}


OUT = Path("out/report")


def main(
    model: Model = "embedded",
    prompts: Suspects = None,
    controls: Controls = None,
    out: Annotated[Path, typer.Option(help="Folder for the page, its data and figures.")] = OUT,
    store: Store = None,
    limit: Limit = 8,
    seeds: Annotated[int, typer.Option(help="Unedited images of each prompt.", min=2)] = 4,
    edited: Annotated[int, typer.Option(help="Images of each prompt and edit.", min=2)] = 2,
    steps: Annotated[int, typer.Option(help="Sampling steps.", min=3)] = 25,
    full: Annotated[
        bool, typer.Option(help="All interventions and mitigations, as `ablate`; twice the time.")
    ] = False,
    sscd: Descriptor = None,
    clip: Clip = None,
    device: Device = None,
    dtype: Dtype = None,
    dataset: Annotated[
        Path | None, typer.Option("--from", help="Draw this report.nc again, without a model.")
    ] = None,
) -> xr.Dataset:
    """One HTML page that says how many prompts are memorized, what drives it and what removes it.

    Returns: the data behind the page, which is also in `out/report.nc`.
    """
    if dataset is not None:
        data = ip.open(dataset)
        report.render(data, out, source=dataset.name)
        return data
    out.mkdir(parents=True, exist_ok=True)
    sd = ip.load(model, dtype, device, steps=steps)
    cases = chosen(prompts, controls, limit)
    measures = Measures.of(model, sscd, clip)
    cases = measures.fitted(cases, sd)
    given = {
        "model": model, "prompts": prompts, "controls": controls, "limit": limit, "seeds": seeds,
        "edited": edited, "steps": steps, "sscd": sscd, "clip": clip, "device": device,
        "dtype": dtype,
    }  # fmt: skip
    data = report.collect(
        sd,
        cases,
        store=store or out / "edits.zarr",
        similarity=measures.copy,
        threshold=measures.keeps,
        fidelity=measures.clip,
        edits=report.edits(full),
        seeds=seeds,
        edited=edited,
        command=_command(given, full),
    )
    for name in ("image", "edit_image", "training_image"):
        data[name].encoding = PACKED
    ip.save(data, out / DATA)
    report.render(data, out, source=DATA)
    return data


def _command(given: dict[str, Any], full: bool) -> str:
    """The command that makes this report again."""
    options = [f"--{name} {shlex.quote(str(v))}" for name, v in given.items() if v is not None]
    return " ".join(["interp report", *options, *(["--full"] if full else [])])


if __name__ == "__main__":
    typer.run(main)
