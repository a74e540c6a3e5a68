"""A pipeline and its settings: load, encode, run, trace, and see the images."""

from interp.session.session import Edit, Edits, Rewrite, Session

__all__ = ["Edit", "Edits", "Rewrite", "Session"]
