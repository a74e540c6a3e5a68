"""Worker processes, for commands that can share out their work.

They are processes of this machine, one a GPU where that is asked for, or a Dask cluster that is
there already.
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
    """A Dask client of so many local processes or of that scheduler, or None for this process.

    Example:
        >>> with cluster(scheduler="tcp://10.0.0.1:8786") as client:
        ...     ip.sweep(sd, prompts, store="grid.zarr", client=client)

    Args:
        workers: local processes.
        scheduler: the address of a cluster that runs already; only its processes work.
        gpus: a local process for each of so many GPUs, which sees that one alone.

    Raises:
        InterpError: nobody answers at the address.
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
    """The device for this process, and how many GPUs get one of their own: none, or all.

    Example:
        >>> gpus_of("cpu")
        ('cpu', 0)

    Raises:
        InterpError: all GPUs were asked for and there is none.
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
            "Leave it out, or say --workers for processes on this CPU.",
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
            f"The cluster at {scheduler!r} was to do the work.",
            f"Nobody answers there: {str(cause).splitlines()[0]}",
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
