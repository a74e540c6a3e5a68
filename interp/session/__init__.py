"""A pipeline and its settings: load, encode, run, trace, and look at images."""

from interp.session.session import Edit, Edits, Session
from interp.session.start import Rewrite, Start

__all__ = ["Edit", "Edits", "Rewrite", "Session", "Start"]
