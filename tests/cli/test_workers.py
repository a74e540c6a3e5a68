"""Where commands find processes to share their work with."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import xarray as xr

from interp import InterpError
from interp.cli.sweep import sweep
from interp.cli.workers import cluster, gpus_of

ASKED: dict[str, Any] = {"edit": ["h"], "seeds": 1, "steps": 2}


def started(module: str, *arguments: str, until: str) -> tuple[subprocess.Popen, str]:
    """A process of Dask's, and what it said when it was ready."""
    command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(until, line):
            return process, found[1]
    raise AssertionError(f"{module} ended before it was ready")


@pytest.fixture(scope="module")
def by_hand() -> Iterator[str]:
    """A scheduler and a worker that somebody has started, in processes of their own."""
    loopback = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler, address = started(
        "dask_scheduler", "--port", "0", *loopback, until=r"Scheduler at:\s+(tcp://\S+)"
    )
    worker, _ = started(
        "dask_worker", address, "--nthreads", "1", *loopback, until=r"(Registered to)"
    )
    yield address
    for process in (worker, scheduler):
        process.terminate()
        process.wait(30)


def test_a_cluster_that_is_there_does_the_work(by_hand: str, tmp_path: Path) -> None:
    listed = tmp_path / "prompts.txt"
    listed.write_text("a picture of a cat\na red picture of a dog\n")
    sweep(prompts=listed, store=tmp_path / "there.zarr", scheduler=by_hand, **ASKED)
    sweep(prompts=listed, store=tmp_path / "here.zarr", **ASKED)
    there, here = (xr.open_zarr(tmp_path / f"{name}.zarr").load() for name in ("there", "here"))
    assert there.drop_attrs().equals(here.drop_attrs())
    with cluster(scheduler=by_hand) as client:
        (pid,) = client.run(os.getpid).values()
    assert pid != os.getpid()


def test_nobody_at_the_address_is_an_error() -> None:
    with (
        pytest.raises(InterpError, match="tcp://127.0.0.1:9.* Nothing answers there"),
        cluster(scheduler="tcp://127.0.0.1:9"),
    ):
        pass


def test_every_gpu_has_a_process_that_sees_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    device, count = gpus_of("cuda:all")
    assert (device, count) == ("cuda", 2)
    with cluster(gpus=count) as client:
        seen = client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"])
    assert sorted(seen.values()) == ["0", "1"]
    assert gpus_of("cpu") == ("cpu", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InterpError, match="torch sees no GPU"):
        gpus_of("cuda:all")


def test_one_process_needs_no_cluster() -> None:
    with cluster() as client:
        assert client is None
