"""How the package is read for the API's pages: examples as examples, every object in its own file.

Docstrings say "Example:" where there is one; the parser knows "Examples:" and takes anything else
for an admonition, in which `>>>` are quotations. And a file that passes on what another one has
would show it again.
"""

import re
from typing import Any

import griffe


class Reading(griffe.Extension):
    """Called by griffe for what it has read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Make every "Example:" a section of examples."""
        if obj.docstring:
            value = obj.docstring.value
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", value, flags=re.M)

    def on_module(self, *, mod: griffe.Module, **_: Any) -> None:
        """Leave what was imported to the file that it was imported from."""
        mod.exports = None
