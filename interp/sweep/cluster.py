"""A sweep on a Dask cluster: workers load the model once, and hand datasets back.

Only the caller writes the store, so a killed worker can not leave it half written, and workers need
no access to the caller's disk. Dask reassigns the prompts of a dead worker, and a restarted worker
loads the model again.
"""

from __future__ import annotations

import contextlib
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.errors import InterpError
from interp.session import Session
from interp.session.load import find, load
from interp.sweep.one_prompt import cell, sessions
from interp.sweep.plan import Plan, difference
from interp.text.prompt import Prompt

Task = tuple[Prompt, Float[Tensor, "1 3 h w"] | None]


@dataclass(frozen=True)
class Source:
    """How to load a session's model again, and how to check that it is the same."""

    name: str
    revision: str | None
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
            written["dtype"],
            session.pipe.unet.device.type,
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
            self.name, self.dtype, self.device, revision=self.revision,
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
    """What a worker keeps during a sweep. A plugin, so that workers which join later have it too.

    Dask sends it like everything between its processes, pickled: connect only to your own clusters.
    The model is loaded when the first prompt arrives.
    """

    def __init__(self, source: Source, plan: Plan) -> None:
        self.source, self.plan = source, plan

    def setup(self, worker: Any) -> None:
        """Called by Dask on each worker."""
        self.lock = Lock()
        self.runs: list[Session] | None = None

    def cell(self, task: Task) -> xr.Dataset:
        """Make one prompt's dataset; one at a time, whatever the worker's threads."""
        with self.lock, contextlib.redirect_stderr(_Unwatched()):
            if self.runs is None:
                self.runs = sessions(self.source.load(), self.plan)
            return cell(self.runs, self.plan, *task)


def spread(
    client: Any, session: Session, plan: Plan, tasks: Mapping[int, Task]
) -> Iterator[tuple[int, xr.Dataset]]:
    """Yield every task's place and dataset, as workers finish.

    Args:
        client: a `dask.distributed.Client`.
        session: made by `load`.
        plan: what to do with every prompt.
        tasks: prompt and training image, by place.

    Raises:
        InterpError: workers can not load the model, or die of every attempt at a prompt.
    """
    from distributed import KilledWorker, as_completed

    name = f"interp-sweep-{uuid.uuid4().hex}"
    client.register_plugin(_plugin(Source.of(session), plan), name=name)
    places: dict[Any, int] = {}
    try:
        for place, task in tasks.items():
            # Not pure: a result of an earlier sweep must not answer for this one.
            places[client.submit(_on_worker, name, task, pure=False)] = place
        for future in as_completed(list(places), loop=client.loop):
            place = places.pop(future)
            yield place, future.result()
            # Otherwise the cluster keeps the images of the whole sweep.
            future.release()
    except KilledWorker as error:
        raise InterpError(
            f"Prompt {place} could not be run on the cluster.",
            f"One worker after the other died of it ({error}).",
            "The usual cause is memory: give workers more, or the session a smaller budget=.",
        ) from error
    finally:
        client.cancel(list(places))
        client.unregister_worker_plugin(name)


def _plugin(source: Source, plan: Plan) -> Any:
    from distributed import WorkerPlugin

    class Plugin(Engine, WorkerPlugin):
        pass

    return Plugin(source, plan)


def _on_worker(name: str, task: Task) -> xr.Dataset:
    from distributed import get_worker

    engine: Any = get_worker().plugins[name]
    return engine.cell(task)


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
