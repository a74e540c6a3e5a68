"""Prompts x seeds x patches, in a store that survives being killed; locally or on a cluster."""

from interp.sweep.run import sweep

__all__ = ["sweep"]
