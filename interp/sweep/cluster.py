"""Work on a Dask cluster, prompt by prompt: workers load the model once, and hand datasets back.

Only the caller writes the store, so a killed worker can not leave it half written, and workers need
no access to the caller's disk. Dask reassigns the prompts of a dead worker, and a restarted worker
loads the model again.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from threading import Lock
from typing import Any

import xarray as xr

from interp.denoiser.pipelines import denoiser
from interp.errors import InterpError
from interp.session import Session
from interp.session.load import find, load
from interp.sweep.plan import difference

Make = Callable[[Any, Any], xr.Dataset]
"""Makes one prompt's dataset, of a session and what is told of the prompt. It is sent to workers: a
function of a module, or a partial of one."""
AHEAD = 2
"""Prompts of a worker at a time: the one that it makes, and the next."""
LOADING = Lock()
"""Models are loaded one by one where a process has several workers: while one is, all modules that
the process makes are without weights."""
AT_LEAST = 64
"""Prompts that are sent out, however few workers there are yet: others may join."""


@dataclass(frozen=True)
class Source:
    """How to load a session's model again, and how to check that it is the same."""

    name: str
    revision: str | None
    lora: str | None
    dtype: str
    device: str
    settings: dict[str, Any]
    provenance: dict[str, Any]

    @classmethod
    def of(cls, session: Session) -> Source:
        """The source of a session that `load` made.

        Raises:
            InterpError: the session was made from a pipeline in memory.
        """
        source, written = session.source, session.provenance()
        if "id" not in source:
            raise InterpError(
                f"A sweep of {session!r} on a cluster was asked for.",
                "Its pipeline exists only in memory, so workers can not load it.",
                "Save it with pipe.save_pretrained(folder) and use interp.load(folder), or leave "
                "out client.",
            )
        local = Path(source["id"]).expanduser()
        # Embedded models are found by name anywhere; other relative paths only from this folder.
        name = str(local.resolve()) if find(source["id"]) == local else source["id"]
        return cls(
            name,
            source.get("revision"),
            str(Path(source["lora"]).expanduser().resolve()) if "lora" in source else None,
            written["dtype"],
            denoiser(session.pipe).device.type,
            session.settings,
            written,
        )

    def load(self) -> Session:
        """The session, loaded again.

        Raises:
            InterpError: it is not the same: the pipeline was changed after loading, or this machine
                has other packages or another model.
        """
        session = load(
            self.name, self.dtype, self.device, revision=self.revision, lora=self.lora,
            scheduler=self.provenance["scheduler"]["class"], **self.settings,
        )  # fmt: skip
        found = difference(self.provenance, session.provenance())
        if found is not None:
            raise InterpError(
                f"A worker loaded {self.name!r} for a sweep.",
                f"It is not the caller's pipeline: {found}.",
                "Change nothing after interp.load, or save the changed pipeline with "
                "pipe.save_pretrained(folder) and load that; give workers the same packages.",
            )
        return session


class Engine:
    """What a worker keeps meanwhile. A plugin, so that workers which join later have it too.

    Dask sends it like everything between its processes, pickled: connect only to your own clusters.
    The model is loaded when the first prompt arrives.
    """

    def __init__(self, source: Source | None, make: Make) -> None:
        self.source, self.make = source, make

    def setup(self, worker: Any) -> None:
        """Called by Dask on each worker."""
        self.lock = Lock()
        self.session: Session | None = None

    def made(self, task: Any) -> xr.Dataset:
        """Make one prompt's dataset; one at a time, whatever the worker's threads."""
        with self.lock, contextlib.redirect_stderr(_Unwatched()):
            if self.session is None and self.source is not None:
                with LOADING:
                    self.session = self.source.load()
            return self.make(self.session, task)


def each(
    client: Any, session: Session | None, make: Make, tasks: Iterable[tuple[int, Any]]
) -> Iterator[tuple[int, xr.Dataset]]:
    """Yield what `make(session, task)` gives for every task: here, or as workers finish.

    Example:
        >>> for place, data in each(client, sd, partial(one, plan), enumerate(prompts)):
        ...     store.write(place, data)

    Args:
        client: a `dask.distributed.Client`, or None for this process, where they come in order.
        session: for a cluster, made by `load`; None where `make` needs no model.
        make: what to do with every task.
        tasks: with their places. They are taken as workers get free, so that neither the scheduler
            holds all of them, nor workers more results than the caller can write.

    Raises:
        InterpError: workers can not load the model, or die of every attempt at a task.
    """
    if client is None:
        for place, task in tasks:
            yield place, make(session, task)
        return
    waiting = iter(tasks)
    for first in waiting:
        yield from _spread(client, session, make, chain([first], waiting))


def _spread(
    client: Any, session: Session | None, make: Make, waiting: Iterator[tuple[int, Any]]
) -> Iterator[tuple[int, xr.Dataset]]:
    from distributed import KilledWorker, as_completed

    name = f"interp-sweep-{uuid.uuid4().hex}"
    source = None if session is None else Source.of(session)
    client.register_plugin(_plugin(source, make), name=name)
    places: dict[Any, int] = {}
    finished = as_completed(loop=client.loop)

    def send() -> None:
        most = max(AT_LEAST, AHEAD * len(client.nthreads()))
        for place, task in islice(waiting, max(0, most - len(places))):
            # Not pure: a result of an earlier sweep must not answer for this one.
            future = client.submit(_on_worker, name, task, pure=False)
            places[future] = place
            finished.add(future)

    try:
        send()
        for future in finished:
            place = places.pop(future)
            send()
            data = future.result()
            # Otherwise the cluster keeps the images of the whole sweep.
            future.release()
            yield place, data
    except KilledWorker as error:
        raise InterpError(
            f"Prompt {place} could not be run on the cluster.",
            f"One worker after the other died of it ({error}).",
            "The usual cause is memory: give workers more, or the session a smaller budget=.",
        ) from error
    finally:
        client.cancel(list(places))
        client.unregister_worker_plugin(name)


def _plugin(source: Source | None, make: Make) -> Any:
    from distributed import WorkerPlugin

    class Plugin(Engine, WorkerPlugin):
        pass

    return Plugin(source, make)


def _on_worker(name: str, task: Any) -> xr.Dataset:
    from distributed import get_worker

    engine: Any = get_worker().plugins[name]
    return engine.made(task)


class _Unwatched:
    """Standard error without progress bars: only the caller shows one."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, text: str) -> int:
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return False
