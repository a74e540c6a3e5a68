"""A paper's experimental setting as a file: `data/papers/NAME.toml`, every value with its source.

`interp reproduce NAME` reproduces a paper. Presets contain only facts; the library implements edits
and detectors, and its docstrings say where it deviates from the authors' code.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from interp import paper
from interp.detect import DETECTORS
from interp.errors import InterpError
from interp.session.embedded import data_folders

PAPERS = "papers"


@dataclass(frozen=True)
class Preset:
    """A paper's setting.

    Attributes:
        key: the file's name.
        facts: the file's content.
    """

    key: str
    facts: dict[str, Any]

    @property
    def tables(self) -> Literal["edits", "detectors"]:
        """What the paper's tables are about."""
        return self.facts["tables"]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.facts["seeds"]["value"])

    @property
    def sampling(self) -> dict[str, Any]:
        return self.facts["sampling"]

    @property
    def keeps(self) -> float:
        """The similarity from which the paper counts an image as memorized."""
        return self.facts["descriptor"]["keeps"]

    @property
    def detectors(self) -> dict[str, dict[str, Any]]:
        """The detectors in its tables, with the published results if known."""
        return self.facts.get("detectors", {})

    def published(self, measure: str) -> dict[str, float | None]:
        """A measure's published results by edit or detector."""
        if self.tables == "edits":
            return paper.published(measure)
        return {name: row.get(measure) for name, row in self.detectors.items()}

    def needs(self) -> list[tuple[str, str, str, str]]:
        """What the user must have: (option, what, where it is published, its SHA-256 or "")."""
        prompts = self.facts["prompts"]
        parts = [
            ("--model", self.facts["model"]),
            ("--prompts", prompts["memorized"]),
            ("--controls", prompts["controls"]),
        ]
        if self.tables == "edits":
            parts += [("--sscd", self.facts["descriptor"]), ("--clip", self.facts["clip"])]
        return [(o, p["value"], p["published"], p.get("sha256", "")) for o, p in parts]


def names() -> list[str]:
    """The papers that have presets.

    Example:
        >>> names()
        ['bright-ending', 'kim-no', 'ren', 'wen']
    """
    return sorted({path.stem for root in data_folders() for path in (root / PAPERS).glob("*.toml")})


def preset(name: str) -> Preset:
    """The preset of a paper.

    Example:
        >>> preset("kim-no").seeds[:3]
        (0, 1, 10)

    Raises:
        InterpError: there is no such preset, or its file is malformed.
    """
    for root in data_folders():
        path = root / PAPERS / f"{name}.toml"
        if name in names() and path.is_file():
            return _read(path)
    raise InterpError(
        f"Cannot reproduce the paper {name!r}.",
        f"There are presets for {', '.join(names()) or 'none'}.",
        "Choose one of them, or add data/papers/NAME.toml like them.",
    )


def _read(path: Path) -> Preset:
    try:
        found = Preset(path.stem, tomllib.loads(path.read_text(encoding="utf-8")))
        found.needs()
        unknown = [name for name in found.detectors if name not in DETECTORS]
        if unknown or found.tables not in ("edits", "detectors"):
            raise ValueError(f"unknown detectors {unknown}, tables {found.tables!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise InterpError(
            f"Cannot read the preset {path}.",
            f"It is malformed ({type(error).__name__}: {error}).",
            "Follow data/papers/kim-no.toml (tables of edits) or wen.toml (tables of detectors).",
        ) from error
    return found
