"""Results are plain `xr.Dataset`s: their axes, how they are saved, and where they are from.

There is no result class: who knows xarray knows results. `identity` and `hashes` say which model
made a number, `intervals` how certain it is.
"""

from interp.results.axes import DIMS, LATENT, PIXELS, POSITION, SPACE, ordered
from interp.results.provenance import PROVENANCE, describe, packages, provenance, stamp
from interp.results.store import open, save

__all__ = [
    "DIMS", "LATENT", "PIXELS", "POSITION", "PROVENANCE", "SPACE", "describe", "open", "ordered",
    "packages", "provenance", "save", "stamp",
]  # fmt: skip
