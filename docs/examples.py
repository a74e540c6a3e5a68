"""Docstrings say "Example:" where there is one; the parser reads examples under "Examples:" alone.

Anything else it takes for an admonition, in which `>>>` are quotations.
"""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Make every "Example:" a section of examples."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object that was read."""
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", value, flags=re.M)
