"""Patches: what to do to which token category, where. Plain values until applied to a pipeline.

From a verb to a layer: `verbs` makes a `Patch` of `operations`, `applied` puts them on a pipeline,
and `patched` runs them on the rows of a batch and writes the result into the layers.
"""

from interp.patch.applied import Applied, installed, remove
from interp.patch.patch import Patch, apply
from interp.patch.steering import guide, repel
from interp.patch.verbs import attenuate, copy, mask, mean, noise, repad, scale, silence, swap, zero
from interp.patch.where import Where

__all__ = [
    "Applied",
    "Patch",
    "Where",
    "apply",
    "attenuate",
    "copy",
    "guide",
    "installed",
    "mask",
    "mean",
    "noise",
    "remove",
    "repad",
    "repel",
    "scale",
    "silence",
    "swap",
    "zero",
]
