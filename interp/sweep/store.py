"""The Zarr store of a sweep: made once, filled prompt by prompt, sound after a kill at any moment.

- The store appears under its name with all its metadata, by one rename. It holds every variable at
  full size, and no number yet.
- A prompt is one chunk of every variable. Its chunks are written, then its chunk of `done`. What a
  kill leaves without `done` is made again and overwritten; what has it is never written again.
- Zarr writes each chunk to a file of another name and renames it (since 3.1.3), so there are no
  torn chunks. `done` has a chunk per prompt, so marking one never rewrites another's mark.

This holds for killed processes. After a power failure files may be missing or empty, which
`check` finds, although `done` says that they were written.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import xarray as xr
import zarr
from filelock import AcquireReturnProxy, FileLock, Timeout

from interp import results
from interp.errors import InterpError
from interp.sweep.plan import difference

DONE = "done"
#: Strings of any length: the first prompt's words say nothing of the longest one.
STRING = np.dtypes.StringDType()


class Store:
    """A sweep's store, which may not exist yet.

    Example:
        >>> store = Store("runs/ablation.zarr", facts)
        >>> store.check()
        >>> for place in store.missing():
        ...     store.write(place, cell(runs, plan, prompts[place]))

    Args:
        path: the folder, `*.zarr`.
        facts: what decides about the content (see `plan.facts`); prompts and labels among them.
    """

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
        self.path, self.facts = Path(path), facts
        self.prompts: Sequence[str] = facts["prompts"]
        if self.path.suffix != ".zarr" or not self.path.parent.is_dir():
            raise InterpError(
                f"A sweep was to be stored as {self.path}.",
                "Stores are folders *.zarr in a folder that exists.",
                f"Name it {self.path.with_suffix('.zarr').name}, and make "
                f"{self.path.parent} if it is not there.",
            )

    @property
    def beside(self) -> Path:
        """Where the store is made before it appears under its name."""
        return self.path.with_name(f".{self.path.name}.draft")

    def alone(self) -> AcquireReturnProxy:
        """A lock against two sweeps on one store; the system opens it when its holder is killed.

        Raises:
            InterpError: another process holds it.
        """
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            return lock.acquire(timeout=0)
        except Timeout as error:
            raise InterpError(
                f"The sweep in {self.path} was to be run.",
                "Another process is writing it.",
                "Wait for it or end it; xr.open_zarr reads the store meanwhile.",
            ) from error

    def open(self) -> xr.Dataset:
        """Return the store's content, read when it is used.

        Raises:
            InterpError: it is no store of a sweep.
        """
        try:
            data = xr.open_zarr(self.path, consolidated=True)
            if DONE not in data.coords or results.PROVENANCE not in data.attrs:
                raise KeyError(DONE)
            data[DONE].load()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InterpError(
                f"The sweep in {self.path} was to be continued.",
                f"It is not the store of a sweep, or parts of it are gone ({error}).",
                "Move it away, or name another store.",
            ) from error
        return data

    def check(self) -> None:
        """Make sure that a store which exists is this sweep's, and sound.

        Raises:
            InterpError: it is no store, was made under other settings, or lost files.
        """
        if not self.path.exists():
            return
        data = self.open()
        found = difference(results.provenance(data), dict(self.facts))
        if found is not None:
            raise InterpError(
                f"The sweep in {self.path} was to be continued.",
                f"It was made under other settings: {found}.",
                "Repeat the call that began it, or name another store.",
            )
        for left in self.path.rglob("*.partial"):
            # Files that Zarr was killed before renaming.
            left.unlink()
        whole = zarr.open_group(self.path, mode="r")
        for place in np.flatnonzero(data[DONE]):
            for name in self._growing(data):
                file = self.path / name / _key(whole[name], data[name].dims, int(place))
                if not file.is_file() or not file.stat().st_size:
                    raise InterpError(
                        f"The sweep in {self.path} was to be continued.",
                        f"It is damaged: {file.relative_to(self.path)} is gone or empty, although "
                        f"prompt {place} was finished.",
                        f"Delete {self.path / DONE / f'c/{place}'} to have that prompt made again.",
                    )

    def missing(self) -> list[int]:
        """The places of the prompts that are not finished."""
        if not self.path.exists():
            return list(range(len(self.prompts)))
        return np.flatnonzero(~self.open()[DONE]).tolist()

    def write(self, place: int, data: xr.Dataset) -> None:
        """Write one prompt's dataset, and then that it is done.

        Args:
            place: the place of the prompt.
            data: all variables, the axis `prompt` of length 1 (see `cell`).
        """
        if not self.path.exists():
            self._make(data)
        region = {"prompt": slice(place, place + 1)}
        # Chunks of nothing but fill values are written too: a missing file is then always a fault.
        how: dict[str, Any] = {"region": region, "consolidated": False, "write_empty_chunks": True}
        growing = self._growing(data)
        mine = data.drop_vars([name for name in data.variables if name not in growing])
        _strings(mine).to_zarr(self.path, **how)
        xr.Dataset(coords={DONE: ("prompt", [True])}).to_zarr(self.path, **how)

    def _make(self, first: xr.Dataset) -> None:
        """Lay out the whole store after the first prompt's dataset."""
        count = len(self.prompts)
        variables = {}
        for name, variable in first.variables.items():
            if "prompt" in variable.dims:
                sizes = {**variable.sizes, "prompt": count}
                dtype = STRING if variable.dtype.kind in "UT" else variable.dtype
                chunks = [1 if dim == "prompt" else size for dim, size in sizes.items()]
                empty = dask.array.zeros(list(sizes.values()), dtype=dtype, chunks=chunks)
                variables[name] = xr.Variable(variable.dims, empty, variable.attrs)
            else:
                variables[name] = variable
        labels = {name: ("prompt", values) for name, values in self.facts["labels"].items()}
        done = dask.array.zeros(count, dtype=bool, chunks=1)
        coords = {
            "prompt": range(count),
            "text": ("prompt", list(self.prompts)),
            DONE: ("prompt", done),
            **labels,
        }
        layout = xr.Dataset(variables).set_coords(list(first.coords)).assign_coords(coords)
        attrs = {results.PROVENANCE: json.dumps(self.facts, sort_keys=True)}
        shutil.rmtree(self.beside, ignore_errors=True)
        with warnings.catch_warnings():
            # Plain xr.open_zarr looks for consolidated metadata, and warns where there are none;
            # Zarr warns that its specification does not have them yet, and readers ignore them.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            _strings(layout).assign_attrs(attrs).to_zarr(
                self.beside, compute=False, consolidated=True, zarr_format=3
            )
        os.replace(self.beside, self.path)

    def _growing(self, data: xr.Dataset) -> list[str]:
        """The variables that are written prompt by prompt."""
        fixed = {"prompt", "text", DONE, *self.facts["labels"]}
        return [str(n) for n, v in data.variables.items() if "prompt" in v.dims and n not in fixed]


def _strings(data: xr.Dataset) -> xr.Dataset:
    """The same with coordinates of text as Zarr stores text of any length."""
    texts = {name: v.astype(STRING) for name, v in data.coords.items() if v.dtype.kind == "U"}
    return data.assign_coords(texts)


def _key(array: Any, dims: Sequence[Any], place: int) -> str:
    """The file of one prompt's chunk: the only one along all other axes."""
    return array.metadata.encode_chunk_key(tuple(place if dim == "prompt" else 0 for dim in dims))
