"""`interp sweep`: many prompts, seeds and edits into one store."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

import interp as ip
from interp.cli.edits import HELP, named
from interp.cli.options import Clip, Descriptor, Device, Dtype, Model, Prompts, Seeds, Steps


def sweep(
    prompts: Prompts,
    store: Annotated[Path, typer.Option(help="The Zarr store, *.zarr; run again, it continues.")],
    edit: Annotated[list[str] | None, typer.Option(help=HELP + "; repeat for several")] = None,
    sscd: Descriptor = None,
    clip: Clip = None,
    mass: Annotated[bool, typer.Option(help="Record attention mass.")] = False,
    images: Annotated[bool, typer.Option(help="Keep the images.")] = True,
    workers: Annotated[int, typer.Option(help="Processes of a local Dask cluster.")] = 1,
    model: Model = "embedded",
    seeds: Seeds = 4,
    steps: Steps = 50,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Prompts x seeds x edits into a store that opens with plain xarray, and survives kills."""
    chosen = named(edit) if edit else ip.paper.interventions()
    file = ip.read_prompts(prompts)
    store.parent.mkdir(parents=True, exist_ok=True)
    sd = ip.load(model, dtype, device, steps=steps)
    measured: dict[str, ip.metrics.Metric] = {}
    if sscd is not None:
        measured["sscd"] = ip.metrics.SSCD(sscd)
    if clip is not None:
        measured["clipscore"] = ip.metrics.CLIPScore(clip)
    with cluster(workers) as client:
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


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """A Dask cluster of so many processes on this machine, or None for one."""
    if workers == 1:
        yield None
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as local,
        Client(local) as client,
    ):
        yield client
