"""`interp benchmark`: every detector and mitigation of the field, on any model."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from interp.cli.options import (
    Clip,
    Controls,
    Descriptor,
    Devices,
    Dtype,
    Model,
    Scheduler,
    Seeds,
    Steps,
    Suspects,
    Workers,
)
from interp.cli.stages import show_stages
from interp.cli.workers import cluster, gpus_of

QUICK = {"limit": 4, "seeds": 2, "steps": 4}
LIMIT = 12
MEMBENCH = {"seeds": 10, "steps": 50}
MEMBENCH_KEEPS = 0.5


def benchmark(
    model: Model = "embedded",
    prompts: Suspects = None,
    controls: Controls = None,
    out: Annotated[Path, typer.Option(help="Folder for stores, tables and figures.")] = Path(
        "out/benchmark"
    ),
    limit: Annotated[
        int | None,
        typer.Option(
            help="At most so many images of each kind and level; 12 of the embedded model.", min=1
        ),
    ] = None,
    seeds: Seeds = 2,
    steps: Steps = 50,
    quick: Annotated[bool, typer.Option(help="Minutes, and wide intervals: a test.")] = False,
    protocol: Annotated[
        Literal["interp", "membench"],
        typer.Option(
            help="membench: 10 images, 50 steps, similarity above 0.5, as in Hong et al. 2025."
        ),
    ] = "interp",
    wording: Annotated[
        Literal["original", "reordered", "shortened", "exchanged"],
        typer.Option(help="What memorized prompts are called when they are judged."),
    ] = "original",
    retrigger: Annotated[
        int, typer.Option(help="Memorized prompts whose images are searched for under patches.")
    ] = 0,
    sscd: Descriptor = None,
    clip: Clip = None,
    device: Devices = None,
    dtype: Dtype = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
) -> Any:
    """Every detector and mitigation of the field: AUC, copies left, fidelity, cost.

    Run again, it goes on where it was.
    """
    log = show_stages()
    import interp as ip
    from interp import benchmark as field
    from interp.report import cases as listed
    from interp.report.measures import Measures

    if quick:
        limit, seeds, steps = QUICK["limit"], QUICK["seeds"], QUICK["steps"]
    if protocol == "membench":
        seeds, steps = MEMBENCH["seeds"], MEMBENCH["steps"]
    log.info("the model %s", model)
    device, gpus = gpus_of(device)
    sd = ip.load(model, dtype, device, steps=steps)
    measures = Measures.of(model, sscd, clip)
    if protocol == "membench":
        measures = replace(measures, keeps=MEMBENCH_KEEPS)
    population = (
        listed.from_files(prompts, controls, limit)
        if prompts is not None
        else listed.population(limit or LIMIT)
    )
    client = cluster(workers, scheduler, gpus)
    return field.benchmark(
        sd, population, measures, out, seeds, wording=wording, retrigger=retrigger, client=client
    )
