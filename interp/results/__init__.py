"""Results are plain `xr.Dataset`s: their axes, how they are kept, and where they are from.

No result class: whoever knows xarray knows a result. More files: `identity` and
`hashes` say which model made a number, and `intervals` how sure it is.
"""

from interp.results.axes import DIMS, LATENT, PIXELS, POSITION, SPACE, ordered
from interp.results.provenance import PROVENANCE, describe, packages, provenance, stamp
from interp.results.store import open, save

__all__ = [
    "DIMS", "LATENT", "PIXELS", "POSITION", "PROVENANCE", "SPACE", "describe", "open", "ordered",
    "packages", "provenance", "save", "stamp",
]  # fmt: skip
