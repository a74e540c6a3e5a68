"""Prompts x seeds x patches into a store that survives a kill: here, or on a Dask cluster."""

from interp.sweep.run import sweep

__all__ = ["sweep"]
