"""Patches: what to do to which token category, where. Values, until they meet a pipeline.

From a verb to a layer: `verbs` make a `Patch` of `operations`, `on_pipeline` puts it on a pipeline,
and `apply` writes into its layers.
"""

from interp.patch.patch import Patch
from interp.patch.verbs import copy, mask, mean, noise, repad, scale, silence, swap, zero
from interp.patch.where import Where

__all__ = [
    "Patch",
    "Where",
    "copy",
    "mask",
    "mean",
    "noise",
    "repad",
    "scale",
    "silence",
    "swap",
    "zero",
]
