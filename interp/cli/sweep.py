"""`interp sweep`: many prompts, seeds and edits into one store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import interp as ip
from interp.cli.edits import HELP, named
from interp.cli.options import (
    Clip,
    Descriptor,
    Devices,
    Dtype,
    Model,
    Prompts,
    Scheduler,
    Seeds,
    Steps,
    Workers,
)
from interp.cli.workers import cluster, gpus_of


def sweep(
    prompts: Prompts,
    store: Annotated[Path, typer.Option(help="The Zarr store, *.zarr; run again, it continues.")],
    edit: Annotated[list[str] | None, typer.Option(help=HELP + "; repeat for several")] = None,
    sscd: Descriptor = None,
    clip: Clip = None,
    mass: Annotated[bool, typer.Option(help="Record attention mass.")] = False,
    images: Annotated[bool, typer.Option(help="Keep the images.")] = True,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    model: Model = "embedded",
    seeds: Seeds = 4,
    steps: Steps = 50,
    device: Devices = None,
    dtype: Dtype = None,
) -> None:
    """Prompts x seeds x edits into a store that opens with plain xarray, and survives kills."""
    chosen = named(edit) if edit else ip.paper.interventions()
    file = ip.read_prompts(prompts)
    store.parent.mkdir(parents=True, exist_ok=True)
    device, gpus = gpus_of(device)
    sd = ip.load(model, dtype, device, steps=steps)
    measured: dict[str, ip.metrics.Metric] = {}
    if sscd is not None:
        measured["sscd"] = ip.metrics.SSCD(sscd)
    if clip is not None:
        measured["clipscore"] = ip.metrics.CLIPScore(clip)
    with cluster(workers, scheduler, gpus) as client:
        found = ip.sweep(
            sd,
            file,
            chosen,
            seeds,
            store=store,
            metrics=measured,
            references=file.pictures(),
            record=ip.mass if mass else None,
            images=images,
            client=client,
        )
    typer.echo(found)
