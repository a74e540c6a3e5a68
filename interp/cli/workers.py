"""Worker processes, for commands that can share out their work."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """A Dask cluster of that many local processes, or None for one."""
    if workers == 1:
        yield None
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            # Workers log what they load and how they end, which no user needs to see.
            silence_logs=logging.ERROR,
            env={"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        yield client
