"""`interp report`: a page for people who do not run code."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import options
from interp.cli.stages import show_stages
from interp.cli.workers import cluster, gpus_of

DATA = "report.nc"
#: Pictures are most of the dataset, and the only variables that shrink.
PACKED = {"zlib": True, "complevel": 4}


def report(
    model: options.Model = "embedded",
    prompts: options.Suspects = None,
    controls: options.Controls = None,
    out: Annotated[Path, typer.Option(help="Folder for the page, its data and figures.")] = Path(
        "out/report"
    ),
    store: options.Store = None,
    limit: options.Limit = 8,
    seeds: Annotated[int, typer.Option(help="Unedited images of each prompt.", min=2)] = 4,
    edited: Annotated[int, typer.Option(help="Images of each prompt and edit.", min=2)] = 2,
    steps: Annotated[int, typer.Option(help="Sampling steps.", min=3)] = 25,
    full: Annotated[bool, typer.Option(help="All the edits of `ablate`; twice the time.")] = False,
    ablation: Annotated[
        Path | None,
        typer.Option(help="With --full: also write the tables and figures of `ablate` here."),
    ] = None,
    calibration: options.Calibrated = None,
    sscd: options.Descriptor = None,
    clip: options.Clip = None,
    device: options.Devices = None,
    dtype: options.Dtype = None,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    dataset: Annotated[
        Path | None, typer.Option("--from", help="Draw the page from a report.nc, without a model.")
    ] = None,
) -> Any:
    """One HTML page: how many prompts are memorized, what drives it, what removes it.

    Returns:
        the data behind the page, which are also in `report.nc`.
    """
    log = show_stages()
    import interp as ip
    from interp import report as made

    if dataset is not None:
        data = ip.open(dataset)
        made.render(data, out, source=dataset.name)
        return data
    log.info("the model %s", model)
    from interp.report.levels import levels
    from interp.report.measures import Measures

    out.mkdir(parents=True, exist_ok=True)
    device, gpus = gpus_of(device)
    sd = ip.load(model, dtype, device, steps=steps)
    calibrated, missing = levels(sd, model, calibration, seeds)
    if missing:
        log.info("%s Detectors are compared with the controls of this report.", missing)
    measures = Measures.of(model, sscd, clip)
    cases = measures.fitted(made.chosen(prompts, controls, limit), sd)
    given = {
        "model": model, "prompts": prompts, "controls": controls, "limit": limit, "seeds": seeds,
        "edited": edited, "steps": steps, "sscd": sscd, "clip": clip, "device": device,
        "dtype": dtype, "calibration": calibration,
    }  # fmt: skip
    with cluster(workers, scheduler, gpus) as client:
        data = made.collect(
            sd,
            cases,
            store=store or out / "edits.zarr",
            similarity=measures.copy,
            threshold=measures.keeps,
            fidelity=measures.clip,
            edits=made.edits(full),
            seeds=seeds,
            edited=edited,
            command=_command(given, full),
            calibration=calibrated,
            client=client,
        )
    for name in ("image", "edit_image", "training_image"):
        data[name].encoding = PACKED
    ip.save(data, out / DATA)
    made.render(data, out, source=DATA)
    if ablation is not None:
        log.info("the ablation's tables and figures")
        made.ablation(sd, made.edited(data), data, ablation, measures.keeps)
    log.info("done: %s", out / "report.html")
    return data


def _command(given: dict[str, Any], full: bool) -> str:
    """The command that makes this report."""
    options = [f"--{name} {shlex.quote(str(v))}" for name, v in given.items() if v is not None]
    return " ".join(["interp report", *options, *(["--full"] if full else [])])
