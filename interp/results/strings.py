"""Text in datasets, in the forms that the two file formats support; prompts may be any text."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import xarray as xr

from interp.errors import InterpError

ESCAPED = "escaped_nul"
"""Marks a variable in whose strings `\\\\` is a backslash and `\\0` a NUL."""


def without_nul(data: xr.Dataset) -> xr.Dataset:
    """The same with NULs escaped, because netCDF's strings end at a NUL.

    Raises:
        InterpError: an attribute contains a NUL.
    """
    owners = {"the dataset": data.attrs}
    owners |= {str(name): variable.attrs for name, variable in data.variables.items()}
    for owner, attrs in owners.items():
        for name, value in attrs.items():
            if isinstance(value, str) and "\0" in value:
                raise InterpError(
                    f"Cannot save the attribute {name!r} of {owner} as netCDF.",
                    "It contains a NUL, where netCDF's strings end.",
                    "Remove the NUL, or save as .zarr.",
                )
    found = [name for name in _texts(data) if "\0" in "".join(map(str, data[name].values.flat))]
    escaped = _changed(data, found, lambda text: text.replace("\\", "\\\\").replace("\0", "\\0"))
    for name in found:
        escaped[name].attrs[ESCAPED] = 1
    return escaped


def with_nul(data: xr.Dataset) -> xr.Dataset:
    """Undo `without_nul`."""
    found = [name for name in _texts(data) if ESCAPED in data[name].attrs]
    mark = re.compile(r"\\(.)", re.DOTALL)
    plain = _changed(data, found, lambda text: mark.sub(_unescaped, text))
    for name in found:
        del plain[name].attrs[ESCAPED]
    return plain


def any_length(data: xr.Dataset) -> xr.Dataset:
    """The same for Zarr, which warns about strings of fixed length."""
    return data.assign(
        {
            name: _variable(data, name, data[name].values.astype(np.dtypes.StringDType()))
            for name in data.variables
            if data[name].dtype.kind == "U"
        }
    )


def fixed_length(data: xr.Dataset) -> xr.Dataset:
    """Undo `any_length`: numpy's usual strings instead of those of any length."""
    return data.assign(
        {
            name: _variable(data, name, np.array(data[name].values.ravel().tolist(), dtype=str))
            for name in data.variables
            if data[name].dtype.kind == "T"
        }
    )


def _unescaped(found: re.Match[str]) -> str:
    return "\0" if found[1] == "0" else found[1]


def _texts(data: xr.Dataset) -> list[str]:
    return [str(name) for name in data.variables if data[name].dtype.kind in "UOT"]


def _changed(data: xr.Dataset, names: list[str], change: Callable[[str], str]) -> xr.Dataset:
    new = {}
    for name in names:
        values = data[name].values
        flat = [change(value) if isinstance(value, str) else value for value in values.flat]
        kind = object if values.dtype.kind == "O" else None
        new[name] = _variable(data, name, np.array(flat, dtype=kind))
    return data.assign(new)


def _variable(data: xr.Dataset, name: object, values: np.ndarray) -> xr.Variable:
    like = data[name]
    return xr.Variable(like.dims, values.reshape(like.shape), dict(like.attrs))
