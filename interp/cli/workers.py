"""Worker processes for commands that can distribute their work.

They are local processes, one per GPU on request, or those of a running Dask cluster.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ALL = "cuda:all"
"""The device that stands for every GPU of this machine."""
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@contextmanager
def cluster(workers: int = 1, scheduler: str | None = None, gpus: int = 0) -> Iterator[Any]:
    """A Dask client for local processes or for a scheduler; None where this process does it all.

    Example:
        >>> with cluster(scheduler="tcp://10.0.0.1:8786") as client:
        ...     ip.sweep(sd, prompts, store="grid.zarr", client=client)

    Args:
        workers: the number of local processes.
        scheduler: the address of a running cluster; only its processes work.
        gpus: the number of GPUs, each of which gets a local process that sees no other.

    Raises:
        InterpError: nothing answers at the address.
    """
    if scheduler is not None:
        with _of(scheduler) as client:
            yield client
    elif gpus or workers > 1:
        with _local(gpus or workers, bool(gpus)) as client:
            yield client
    else:
        yield None


def gpus_of(device: str | None) -> tuple[str | None, int]:
    """The device of this process, and how many GPUs get a process each: none, or all.

    Example:
        >>> gpus_of("cpu")
        ('cpu', 0)

    Raises:
        InterpError: all GPUs were asked for, but there are none.
    """
    if device != ALL:
        return device, 0
    import torch

    from interp.errors import InterpError

    count = torch.cuda.device_count()
    if not count:
        raise InterpError(
            f"--device {ALL} was asked for.",
            "torch sees no GPU here.",
            "Leave it out, or use --workers for processes on this CPU.",
        )
    return "cuda", count


@contextmanager
def _of(scheduler: str) -> Iterator[Any]:
    from distributed import Client

    from interp.errors import InterpError

    try:
        client = Client(scheduler, set_as_default=False, timeout="10s")
    except (OSError, ValueError) as cause:
        raise InterpError(
            f"Cannot use the cluster at {scheduler!r}.",
            f"Nothing answers there: {str(cause).splitlines()[0]}",
            "Give the address that `dask scheduler` prints, such as tcp://10.0.0.1:8786.",
        ) from cause
    with client:
        yield client


@contextmanager
def _local(workers: int, apart: bool) -> Iterator[Any]:
    from distributed import Client, Nanny, Scheduler, SpecCluster

    def options(number: int) -> dict[str, Any]:
        env = QUIET | ({"CUDA_VISIBLE_DEVICES": str(number)} if apart else {})
        # Workers log what they load and how they end, which no user needs to see.
        return {"nthreads": 1, "env": env, "silence_logs": logging.ERROR}

    addresses = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": ":0"}
    with (
        SpecCluster(
            {number: {"cls": Nanny, "options": options(number)} for number in range(workers)},
            {"cls": Scheduler, "options": addresses},
            silence_logs=logging.ERROR,
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client
