"""From a dataset to a page and its figures: pure, without a model, identical every time.

One self-contained file: it contains style, script and pictures, and its security policy lets the
browser run only this script and fetch nothing.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from tqdm.auto import tqdm

from interp import plot, results
from interp.errors import InterpError
from interp.report import words
from interp.report.figures import drawn
from interp.report.findings import find, removals
from interp.report.inline import svg
from interp.report.sections import RULE, sections

log = logging.getLogger(__name__)

PARTS = Path(__file__).parent / "page"
PALETTE = PARTS / "palette.css"
"""Colours and fonts, which the explorer shares."""
STYLE = (PALETTE, PARTS / "report.css")
PAGE = "report.html"
NEEDED = ("verdict", "kept", "phi", "change", "image", "edit_image", "mass", "overlay", "score")


def render(
    data: xr.Dataset, out: str | os.PathLike[str], figures: bool = True, source: str = ""
) -> Path:
    """Write `report.html` and every figure as PNG and PDF, and return the page's path.

    Example:
        >>> render(data, "out/report")

    Args:
        data: from `collect`.
        out: the folder, created if necessary.
        figures: also write `figures/*.png` and `*.pdf`.
        source: the dataset's file name, shown on the page.

    Raises:
        InterpError: the dataset is not one of a report.
    """
    missing = [name for name in NEEDED if name not in data]
    if missing:
        raise InterpError(
            "Cannot draw a report from this dataset.",
            f"It has no {', '.join(missing)}.",
            "Pass the dataset that a report wrote: report.nc.",
        )
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    found = find(data)
    log.info("the page and its figures")
    made = drawn(data, found)
    if figures:
        for name, figure in tqdm(made.items(), unit="figure", disable=None):
            plot.save(figure, folder / "figures", name)
    inline = {name: svg(figure, _says(name)) for name, figure in made.items()}
    page = html(data, inline, source)
    path = folder / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def html(data: xr.Dataset, figures: dict[str, Markup], source: str = "") -> str:
    """The page as text.

    Example:
        >>> figures = drawn(data, find(data)).items()
        >>> html(data, {name: svg(figure, name) for name, figure in figures})
    """
    environment = Environment(
        loader=FileSystemLoader(PARTS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"number": number, "percent": percent, "signed": signed}
    script = (PARTS / "report.js").read_text(encoding="utf-8")
    found = find(data)
    return environment.get_template("report.html.j2").render(
        found=found,
        rows=removals(found),
        prompts=sections(data),
        figures=figures,
        facts=results.provenance(data),
        seeds=data.sizes["seed"],
        edited=data.sizes["edit_seed"],
        measured="edit_fidelity" in data,
        controls=bool(data.detector_threshold.notnull().any()),
        words=words,
        rule=RULE,
        source=source,
        style=Markup("".join(path.read_text(encoding="utf-8") for path in STYLE)),
        script=Markup(script),
        policy=_policy(script),
    )


def number(value: Any, digits: int = 2) -> str:
    """A readable number, or a dash if there is none.

    Detectors' scores, with three digits or more, may be tiny; similarities below 0.005 are zero.

    Example:
        >>> number(0.256), number(float("nan")), number(0.0002), number(0.0002, 3)
        ('0.26', '–', '0.00', '0.0002')
    """
    if value is None or not np.isfinite(value):
        return "–"
    tiny = digits > 2 and 0 < abs(value) < 0.5 * 10**-digits
    if abs(value) >= 1000 or tiny:
        return f"{value:.3g}"
    return f"{round(value, digits) + 0.0:.{digits}f}"  # no minus before a zero


def percent(value: Any) -> str:
    """A share in percent, or a dash if there is none.

    Example:
        >>> percent(0.256)
        '26\xa0%'
    """
    return (
        "–"
        if value is None or not np.isfinite(value)
        else f"{value:.0%}".replace("%", "\N{NO-BREAK SPACE}%")
    )


def signed(value: Any) -> str:
    """A change with its sign.

    Example:
        >>> signed(-0.012)
        '−0.01'
    """
    if value is None or not np.isfinite(value):
        return "–"
    rounded = round(float(value), 2)
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def _policy(script: str) -> str:
    """The page's security policy: run this one script, show what the page contains."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _says(name: str) -> str:
    """What a figure shows, for screen readers."""
    if name == "summary":
        return "Similarity to the training image under each edit; the table below has the numbers."
    if name == "where":
        return "Effect of each category by layer and step, over all memorized prompts."
    prompt, _, axis = name.rpartition("-")
    return f"Attention of each category over {axis}, of {prompt.replace('-', ' ')}."
