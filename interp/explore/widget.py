"""The explorer as a widget of Jupyter: anywidget carries questions and answers."""

from __future__ import annotations

from typing import Any

import anywidget
import xarray as xr

from interp.explore.explorer import Explorer
from interp.explore.page import script, style
from interp.patch import Patch


class Widget(anywidget.AnyWidget):
    """The explorer's page in a cell; made by `ip.explore`.

    Example:
        >>> explorer = Widget(Explorer(sd, cases, measures))
    """

    _esm = script()
    _css = style()

    def __init__(self, explorer: Explorer) -> None:
        super().__init__()
        self.explorer = explorer
        self.on_msg(self._asked)

    @property
    def patch(self) -> Patch | None:
        """The patch that was last looked at."""
        return self.explorer.patch

    @property
    def line(self) -> str:
        """The line of Python that makes the image that was last looked at."""
        return self.explorer.line

    @property
    def run(self) -> xr.Dataset:
        """What was last looked at as a dataset: `image` and `mass`, without and with the patch."""
        return self.explorer.run

    def _asked(self, widget: Any, question: Any, buffers: Any) -> None:
        self.send(self.explorer.answer(question))
