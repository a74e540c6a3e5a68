"""The Zarr store of a sweep: created once, filled prompt by prompt, intact whenever it is killed.

- The store appears under its name with all its metadata, by one rename. It has every variable at
  full size, still without values.
- A prompt is one chunk of every variable. Its chunks are written first, then its chunk of `done`.
  Prompts without `done` are run again and overwritten; those with it are never written again.
- Zarr writes each chunk to a temporary file and renames it (since 3.1.3), so there are no partial
  chunks. `done` has one chunk per prompt, so marking one never rewrites another's mark.

This holds for killed processes. After a power failure files may be missing or empty although `done`
is set, which `check` detects.
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
#: Strings of any length: the first prompt's words need not be the longest.
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
        facts: what determines the content (see `plan.facts`), including prompts and labels.
    """

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
        self.path, self.facts = Path(path), facts
        self.prompts: Sequence[str] = facts["prompts"]
        if self.path.suffix != ".zarr" or not self.path.parent.is_dir():
            raise InterpError(
                f"Cannot store a sweep as {self.path}.",
                "A store is a folder called *.zarr in an existing folder.",
                f"Call it {self.path.with_suffix('.zarr').name}, and create "
                f"{self.path.parent} if it does not exist.",
            )

    @property
    def beside(self) -> Path:
        """Where the store is created before it is renamed."""
        return self.path.with_name(f".{self.path.name}.draft")

    def alone(self) -> AcquireReturnProxy:
        """A lock against two sweeps on one store; the system releases it when its holder dies.

        Raises:
            InterpError: another process holds it.
        """
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            return lock.acquire(timeout=0)
        except Timeout as error:
            raise InterpError(
                f"Cannot run the sweep in {self.path}.",
                "Another process is writing it.",
                "Wait for it or end it; xr.open_zarr can read the store in the meantime.",
            ) from error

    def open(self) -> xr.Dataset:
        """Return the store's content, read lazily.

        Raises:
            InterpError: it is not the store of a sweep.
        """
        try:
            data = xr.open_zarr(self.path, consolidated=True)
            if DONE not in data.coords or results.PROVENANCE not in data.attrs:
                raise KeyError(DONE)
            data[DONE].load()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise InterpError(
                f"Cannot resume the sweep in {self.path}.",
                f"It is not the store of a sweep, or parts of it are missing ({error}).",
                "Move it away, or choose another store.",
            ) from error
        return data

    def check(self) -> None:
        """Make sure that an existing store is intact and belongs to this sweep.

        Raises:
            InterpError: it is not a store, was made with other settings, or lacks files.
        """
        if not self.path.exists():
            return
        data = self.open()
        found = difference(results.provenance(data), dict(self.facts))
        if found is not None:
            raise InterpError(
                f"Cannot resume the sweep in {self.path}.",
                f"It was made with other settings: {found}.",
                "Repeat the call that began it, or choose another store.",
            )
        for left in self.path.rglob("*.partial"):
            # Files that Zarr had not renamed when it was killed.
            left.unlink()
        whole = zarr.open_group(self.path, mode="r")
        for place in np.flatnonzero(data[DONE]):
            for name in self._growing(data):
                file = self.path / name / _key(whole[name], data[name].dims, int(place))
                if not file.is_file() or not file.stat().st_size:
                    raise InterpError(
                        f"Cannot resume the sweep in {self.path}.",
                        f"It is damaged: {file.relative_to(self.path)} is missing or empty, "
                        f"although prompt {place} was finished.",
                        f"Delete {self.path / DONE / f'c/{place}'} to have that prompt run again.",
                    )

    def missing(self) -> list[int]:
        """The indices of the unfinished prompts."""
        if not self.path.exists():
            return list(range(len(self.prompts)))
        return np.flatnonzero(~self.open()[DONE]).tolist()

    def write(self, place: int, data: xr.Dataset) -> None:
        """Write one prompt's dataset, then mark it as done.

        Args:
            place: the prompt's index.
            data: all variables, with `prompt` of length 1 (see `cell`).
        """
        if not self.path.exists():
            self._make(data)
        region = {"prompt": slice(place, place + 1)}
        # Chunks with only fill values are written too, so a missing file is always a fault.
        how: dict[str, Any] = {"region": region, "consolidated": False, "write_empty_chunks": True}
        growing = self._growing(data)
        mine = data.drop_vars([name for name in data.variables if name not in growing])
        _strings(mine).to_zarr(self.path, **how)
        xr.Dataset(coords={DONE: ("prompt", [True])}).to_zarr(self.path, **how)

    def _make(self, first: xr.Dataset) -> None:
        """Create the whole store, laid out like the first prompt's dataset."""
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
            # Plain xr.open_zarr looks for consolidated metadata and warns if there are none; Zarr
            # warns that they are not in its specification yet.
            warnings.filterwarnings("ignore", message="Consolidated metadata")
            _strings(layout).assign_attrs(attrs).to_zarr(
                self.beside, compute=False, consolidated=True, zarr_format=3
            )
        os.replace(self.beside, self.path)

    def _growing(self, data: xr.Dataset) -> list[str]:
        """The variables written prompt by prompt."""
        fixed = {"prompt", "text", DONE, *self.facts["labels"]}
        return [str(n) for n, v in data.variables.items() if "prompt" in v.dims and n not in fixed]


def _strings(data: xr.Dataset) -> xr.Dataset:
    """The same with text coordinates as Zarr's strings of any length."""
    texts = {name: v.astype(STRING) for name, v in data.coords.items() if v.dtype.kind == "U"}
    return data.assign_coords(texts)


def _key(array: Any, dims: Sequence[Any], place: int) -> str:
    """The file of one prompt's chunk; along other axes there is only one."""
    return array.metadata.encode_chunk_key(tuple(place if dim == "prompt" else 0 for dim in dims))
