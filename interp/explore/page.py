"""The explorer's page: a script and a style without a build, for JupyterLab and for a browser."""

from pathlib import Path

from interp.report.page import PALETTE

HERE = Path(__file__).parent / "page"
PARTS = ("dom.js", "controls.js", "answers.js", "explorer.js")
"""The files of the one module, as JupyterLab takes it; each knows the names of those before it."""


def script() -> str:
    """The module: `export async function explore`, and the default export that anywidget takes."""
    return "\n".join((HERE / part).read_text(encoding="utf-8") for part in PARTS)


def style() -> str:
    """The style: the colours of all pages, and what the explorer adds."""
    return "\n".join(path.read_text(encoding="utf-8") for path in (PALETTE, HERE / "explorer.css"))
