"""Patches: what to do to which token category, where. Values, until they meet a pipeline.

From a verb to a layer: `verbs` makes a `Patch` of `operations`, and `applied` runs them on the rows
of a batch and writes the result into the UNet's layers.
"""

from interp.patch.applied import Applied
from interp.patch.patch import Patch, apply
from interp.patch.verbs import copy, guide, mask, mean, noise, repad, scale, silence, swap, zero
from interp.patch.where import Where

__all__ = [
    "Applied",
    "Patch",
    "Where",
    "apply",
    "copy",
    "guide",
    "mask",
    "mean",
    "noise",
    "repad",
    "scale",
    "silence",
    "swap",
    "zero",
]
