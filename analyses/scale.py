"""What sharing a sweep out costs: cells that only sleep, on 1, 8 and 64 workers.

    python -m analyses.scale                    # 500 prompts, 10 seeds, 20 edits: half an hour
    python -m analyses.scale --workers 64       # one row of the table

Everything is what a user runs but the model: `ip.sweep`, its store, a Dask scheduler in the
calling process, and workers with one thread each that are reached over TCP. They share processes,
eight to one, because 64 copies of torch do not fit into a small machine. Where a cell would denoise
it sleeps, and it returns noise. How long a cell sleeps follows from `--minutes`: the caller has as
many cells to write in a second whatever the number of workers.
"""

import asyncio
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import psutil
import typer
import xarray as xr
from distributed import Client, LocalCluster, Worker

import interp as ip
from interp import results
from interp.results.axes import PIXELS
from interp.sweep.cluster import Source
from interp.sweep.store import Store

SEEDS, EDITS, PIXEL = 10, 20, 32
IN_A_PROCESS = 8
MIB = 2**20


class Asleep(ip.Session):
    """A session whose pipeline sleeps, and returns noise."""

    guided = False
    unconditional = None

    def __init__(self, seconds: float) -> None:
        self.seconds, self.random = seconds, np.random.default_rng()

    def run(self, prompt: Any, seeds: Any, edits: Any, *asked: Any, **more: Any) -> xr.Dataset:
        time.sleep(self.seconds)
        shape = (len(edits), 1, len(seeds), PIXEL, PIXEL, 3)
        noise = self.random.integers(0, 256, shape, np.uint8)
        coords = {"patch": list(edits), "prompt": [0], "seed": list(seeds)}
        return xr.Dataset({"image": (("patch", "prompt", "seed", *PIXELS), noise)}, coords)


def host(address: Connection, count: int, seconds: float) -> None:
    """A process of so many workers, each of which gets a model that sleeps."""
    scheduler = address.recv()

    async def serve() -> None:
        workers = [await Worker(scheduler, nthreads=1) for _ in range(count)]
        await asyncio.gather(*(worker.finished() for worker in workers))

    with patch.object(Source, "load", lambda source: Asleep(seconds)):
        asyncio.run(serve())


@contextmanager
def workers(count: int, seconds: float) -> Iterator[Client]:
    """A client of a cluster of so many workers."""
    # Forked, before there are threads: each process would take a while to import torch.
    context = multiprocessing.get_context("fork")
    hosts: list[Any] = []
    pipes: list[Connection] = []
    for first in range(0, count, IN_A_PROCESS):
        there, here = context.Pipe(duplex=False)
        share = min(IN_A_PROCESS, count - first)
        hosts.append(context.Process(target=host, args=(there, share, seconds)))
        hosts[-1].start()
        pipes.append(here)
    try:
        with (
            LocalCluster(n_workers=0, dashboard_address=None) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            for pipe in pipes:
                pipe.send(cluster.scheduler_address)
            client.wait_for_workers(count, timeout=600)
            yield client
    finally:
        for process in hosts:
            process.terminate()
            process.join()


def timed(count: int, texts: Sequence[str], seconds: float, folder: Path) -> dict[str, float]:
    """One sweep: its time, what of it was writing, and this process's memory meanwhile."""
    edits = {f"{n} of 20": ip.zero("pad", fraction=n / EDITS) for n in range(1, EDITS)}
    written: list[np.ndarray] = []
    memory: list[int] = []
    began: list[np.ndarray] = []
    write, missing = Store.write, Store.missing

    def clocks() -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()])

    def begins(self: Store) -> list[int]:
        """What is missing is asked once, when all is checked and encoded."""
        found = missing(self)
        began.append(clocks())
        return found

    def watched(self: Store, place: int, data: xr.Dataset) -> None:
        start = clocks()
        write(self, place, data)
        written.append(clocks() - start)
        memory.append(psutil.Process().memory_info().rss)

    with (
        workers(count, seconds) as client,
        patch.object(Store, "write", watched),
        patch.object(Store, "missing", begins),
    ):
        sd, store = ip.load(steps=1), folder / "grid.zarr"
        ip.sweep(sd, texts, edits, SEEDS, store=store, images=True, client=client)
        wall, processor = clocks() - began[0]
    return {
        "workers": count,
        "seconds a cell": seconds,
        "seconds": wall,
        "efficiency": len(texts) * seconds / (count * wall),
        "at best": len(texts) / (count * -(-len(texts) // count)),
        "caller, ms of processor a cell": 1000 * processor / len(texts),
        "of which writing": 1000 * float(np.median(np.array(written)[:, 1])),
        "writing, share of the time": float(np.sum(written, axis=0)[0]) / wall,
        "caller's MiB after a tenth": memory[len(memory) // 10] / MIB,
        "caller's MiB at the end": memory[-1] / MIB,
    }


def main(
    out: Path = Path("out/scale"),
    workers: Annotated[list[int], typer.Option()] = [1, 8, 64],  # noqa: B006
    prompts: int = 500,
    minutes: float = 10,
) -> xr.Dataset:
    """Time the sweeps, and write a dataset and a table (CSV, Markdown).

    Args:
        minutes: for each sweep, which decides how long a cell sleeps.
    """
    texts = [f"{number} goats in a church" for number in range(prompts)]
    rows = []
    for count in workers:
        folder = Path(tempfile.mkdtemp())
        rounds = -(-prompts // count)
        rows.append(timed(count, texts, 60 * minutes / rounds, folder))
        shutil.rmtree(folder)
    table = pd.DataFrame(rows).set_index("workers")
    data = results.stamp(
        table.to_xarray(),
        packages=results.packages(),
        prompts=prompts, seeds=SEEDS, edits=EDITS, bytes_a_cell=SEEDS * EDITS * PIXEL**2 * 3,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    results.save(data, out / "scale.nc")
    table.to_csv(out / "scale.csv")
    (out / "scale.md").write_text(table.to_markdown(floatfmt=".3g"))
    print(table.to_markdown(floatfmt=".3g"))
    return data


if __name__ == "__main__":
    typer.run(main)
