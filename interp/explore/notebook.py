"""The explorer in JupyterLab."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.errors import InterpError
from interp.explore.explorer import Explorer
from interp.report.cases import Case, population
from interp.report.measures import Measures
from interp.session import Session
from interp.session.embedded import is_embedded

if TYPE_CHECKING:
    from interp.explore.widget import Widget


def explore(session: Session, prompts: Sequence[str | Case] | None = None) -> Widget:
    """Look at prompts with a mouse: patch them, see the image change, copy the line of Python.

    Example:
        >>> explorer = ip.explore(sd)       # the last line of a cell shows it
        >>> explorer.patch, explorer.run    # what was last looked at, as a value and a dataset

    It computes on the kernel's own thread, so that it and cells never use the pipeline at once.

    Args:
        session: pipeline and settings.
        prompts: to pick from, as texts or with training images (`interp.report.Case`); by default
            those that the embedded model knows, and none of other models.

    Raises:
        InterpError: anywidget is not installed.

    In a browser without Jupyter, the same is `interp explore`.
    """
    try:
        from interp.explore.widget import Widget
    except ImportError as cause:
        raise InterpError(
            "The explorer was asked for in a notebook.",
            f"It is a widget of anywidget, which is not installed ({cause}).",
            "Install it: pip install 'interp[notebooks]'; or run `interp explore` in a terminal.",
        ) from cause
    return Widget(explorer(session, prompts))


def explorer(
    session: Session, prompts: Sequence[str | Case] | None = None, setup: str = ""
) -> Explorer:
    """What answers, without a page: `explorer(sd).answer({"ask": "start"})`.

    Arguments as in `explore` and `Explorer`.
    """
    name = session.source.get("id", "")
    if prompts is None:
        prompts = population() if is_embedded(name) else ()
    cases = [Case(one, "", one) if isinstance(one, str) else one for one in prompts]
    return Explorer(session, cases, Measures.of(name), setup)
