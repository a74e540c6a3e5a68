"""`interp sweep`: many prompts, seeds and edits into one store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import interp as ip
from interp.cli import options
from interp.cli.edits import HELP, named
from interp.cli.workers import cluster, gpus_of


def sweep(
    prompts: options.Prompts,
    store: Annotated[Path, typer.Option(help="The Zarr store, *.zarr; run again to resume.")],
    edit: Annotated[list[str] | None, typer.Option(help=HELP + "; repeat for several")] = None,
    sscd: options.Descriptor = None,
    clip: options.Clip = None,
    mass: Annotated[bool, typer.Option(help="Record attention mass.")] = False,
    images: Annotated[bool, typer.Option(help="Keep the images.")] = True,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
    model: options.Model = "embedded",
    seeds: options.Seeds = 4,
    steps: options.Steps = 50,
    device: options.Devices = None,
    dtype: options.Dtype = None,
) -> None:
    """Prompts x seeds x edits, written to a store that opens with plain xarray.

    The store survives being killed: run the same command again to resume.
    """
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
