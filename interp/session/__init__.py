"""A pipeline and its settings: load, encode, run, trace, and see the images."""

from interp.session.session import Edit, Edits, Session
from interp.session.start import Rewrite, Start

__all__ = ["Edit", "Edits", "Rewrite", "Session", "Start"]
