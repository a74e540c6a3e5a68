"""Saving datasets as netCDF or Zarr, whole or not at all, and opening them.

Not for a sweep, whose store grows prompt by prompt: see `sweep.store`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import xarray as xr
import zarr

from interp.errors import InterpError
from interp.results import strings

VARIABLES = "variables"


def save(data: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """Write a dataset to netCDF (`.nc`) or Zarr (`.zarr`) and return its path.

    Example:
        >>> save(run, "runs/pads.nc")

    The file appears under its name only when it is complete, so a run that is killed while saving
    leaves the previous file as it was. netCDF has no NUL in its strings: where a prompt has one it
    stands in the file as a backslash and a zero, and `open` puts it back.

    Raises:
        InterpError: for an unknown suffix, a folder that does not exist, or a NUL in an attribute.
    """
    target = Path(path)
    _suffix(target)
    if not target.parent.is_dir():
        raise InterpError(
            f"The dataset was to be saved as {target}.",
            f"There is no folder {target.parent}.",
            "Create it first, or save elsewhere.",
        )
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        draft = Path(folder) / target.name
        if target.suffix == ".zarr":
            # Zarr reads chunks that are not there as NaN. Written without gaps, and with a list of
            # what was written, a store that was cut off in copying can be told from a whole one.
            listed = strings.any_length(data)
            listed = listed.assign_attrs({VARIABLES: sorted(map(str, data.variables))})
            listed.to_zarr(draft, mode="w", consolidated=False, write_empty_chunks=True)
            if target.exists():
                # A folder can not be replaced in one step: the old one is first moved aside.
                os.replace(target, Path(folder) / "old")
        else:
            strings.without_nul(data).to_netcdf(draft, engine="h5netcdf")
        os.replace(draft, target)
    return target


def open(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read a dataset that `save` wrote, wholly into memory, and let go of the file.

    Example:
        >>> interp.save(run, "runs/pads.nc")
        >>> run = interp.open("runs/pads.nc")

    Raises:
        InterpError: if the file is missing, incomplete or not a dataset.
    """
    target = Path(path)
    _suffix(target)
    if not target.exists():
        raise InterpError(
            f"The dataset {target} was to be opened.",
            "There is no such file." if target.parent.is_dir() else "Its folder does not exist.",
            "Check the path, or make the dataset again.",
        )
    try:
        if target.suffix == ".zarr":
            with xr.open_zarr(target, consolidated=False) as lazy:
                return strings.fixed_length(_whole(lazy.load(), target))
        with xr.open_dataset(target, engine="h5netcdf") as lazy:
            return strings.with_nul(lazy.load())
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InterpError(
            f"The dataset {target} was to be opened.",
            f"It is not a complete {target.suffix} dataset ({error}).",
            "It was probably cut off while being written or copied: make it again.",
        ) from error


def _whole(data: xr.Dataset, target: Path) -> xr.Dataset:
    """The dataset of a Zarr store, if all that `save` wrote is still there."""
    listed = data.attrs.pop(VARIABLES, ())
    missing = [name for name in listed if name not in data.variables]
    for name in set(listed) - set(missing):
        array = zarr.open_array(target, path=name, mode="r")
        if array.nchunks_initialized < array.nchunks:
            missing.append(name)
    if missing:
        raise ValueError(f"all or part of {', '.join(missing)} is missing")
    return data


def _suffix(target: Path) -> None:
    if target.suffix not in (".nc", ".zarr"):
        raise InterpError(
            f"A dataset was to be kept as {target}.",
            "Datasets are kept as netCDF (.nc) or Zarr (.zarr).",
            f"Name it {target.with_suffix('.nc')}.",
        )
