"""Prompt files as users have them: CSV with any separator, JSON lines, Parquet, or plain text.

Published prompt lists disagree about the column (`prompt`, `Caption`, `text`), the separator and
the spelling of everything else, and several of their prompts may share a training image. This
reader accepts them all, keeps every other column, groups rows by image (intervals must resample
images, not prompts), and lists the rows it could not read. It fetches nothing: a URL is a label.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from interp.errors import InterpError
from interp.text.formats import Record, UnreadableRow, excerpt, missing, records

TEXT_COLUMNS = ("prompt", "caption", "text")
URL_COLUMNS = ("url", "urls")


@dataclass(frozen=True)
class PromptRow:
    """One prompt: its text and line, and its image and group if the file has them."""

    text: str
    line: int
    group: str
    image: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptFile:
    """The prompts of a file, in its order.

    Example:
        >>> file = read_prompts("extended_mv_458_sd1.csv")
        >>> file
        458 prompts of 94 images from extended_mv_458_sd1.csv
        >>> file.texts[0], file.groups[0]
    """

    path: Path
    rows: tuple[PromptRow, ...]
    unreadable: tuple[UnreadableRow, ...] = ()

    @property
    def texts(self) -> list[str]:
        return [row.text for row in self.rows]

    @property
    def groups(self) -> list[str]:
        """What a bootstrap resamples: equal for rows that share a training image."""
        return [row.group for row in self.rows]

    @property
    def images(self) -> list[str | None]:
        return [row.image for row in self.rows]

    def pictures(self) -> list[Image.Image | None]:
        """Return each row's training image, or None if its file does not exist.

        Example:
            >>> ip.sweep(sd, file, store="grid.zarr", references=file.pictures())

        Paths are relative to the prompt file. URLs are never fetched.
        """
        paths = [None if row.image is None else self.path.parent / row.image for row in self.rows]
        return [
            Image.open(path).convert("RGB") if path is not None and path.is_file() else None
            for path in paths
        ]

    def frame(self) -> pd.DataFrame:
        """Return a table: text, line, group, image, then the file's own columns."""
        return pd.DataFrame(
            [
                {**row.columns, "text": row.text, "line": row.line, "group": row.group}
                | {"image": row.image}
                for row in self.rows
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[PromptRow]:
        return iter(self.rows)

    def __repr__(self) -> str:
        groups = len(set(self.groups))
        of = f" of {groups} images" if groups < len(self.rows) else ""
        bad = f", {len(self.unreadable)} unreadable rows" if self.unreadable else ""
        return f"{len(self.rows)} prompts{of} from {self.path.name}{bad}"


def read_prompts(path: str | Path, column: str | None = None) -> PromptFile:
    """Read the prompts of a CSV, JSON, JSON lines, Parquet or text file.

    Example:
        >>> read_prompts("memorized.csv").texts

    Args:
        path: `.txt` has one prompt per line. Anything else is Parquet or JSON if it starts like
            one, and otherwise a CSV, which must have a header, from which its separator is
            guessed. Text is UTF-8, UTF-16 or UTF-32.
        column: the prompt column; by default `prompt`, `caption` or `text`, in any case.

    Rows are grouped by a column `group`, else by equal `url` or `urls`, else by equal `image`; a
    row with none of them is its own group. None, NaN, `nan`, `null`, `N/A` and the like count as
    missing. Rows without a prompt cause a warning and are listed in `unreadable`.

    Raises:
        InterpError: the file is missing, is in another format, or has no prompt column or no
            readable prompt.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InterpError(
            asked=f"Prompts from {str(path)!r} were asked for.",
            exists="There is no such file.",
            todo="Give a CSV, JSON lines, Parquet or text file.",
        )
    if path.suffix.lower() == ".txt":
        column = "text"
    rows, unreadable = _rows(records(path), path, column)
    if unreadable:
        listed = "\n".join(f"  line {bad.line}: {bad.why}: {bad.excerpt}" for bad in unreadable)
        warnings.warn(f"{len(unreadable)} unreadable rows in {path}:\n{listed}", stacklevel=2)
    if not rows:
        raise InterpError(
            asked=f"Prompts from {path.name} were asked for.",
            exists=f"It has {len(unreadable)} rows, none with a prompt.",
            todo="Write one prompt per line (.txt), or call the column prompt, caption or text.",
        )
    return PromptFile(path, tuple(rows), tuple(unreadable))


def _rows(
    found: list[Record], path: Path, column: str | None
) -> tuple[list[PromptRow], list[UnreadableRow]]:
    rows, unreadable = [], []
    for line, record in sorted(found, key=lambda pair: pair[0]):
        if isinstance(record, UnreadableRow):
            unreadable.append(record)
            continue
        by_name = {name.lower(): name for name in record}
        wanted = TEXT_COLUMNS if column is None else (column.lower(),)
        name = next((by_name[want] for want in wanted if want in by_name), None)
        if name is None:
            raise InterpError(
                asked=f"A column {' or '.join(wanted)} was looked for in {path.name}, line {line}.",
                exists=f"Its columns are {', '.join(repr(column) for column in record)}.",
                todo="Name the column of prompts: read_prompts(path, column=...). If the first "
                "line is already a prompt, add a header above it, or save the list as .txt.",
            )
        text = record[name]
        if not isinstance(text, str) or missing(text):
            unreadable.append(UnreadableRow(line, "no prompt", excerpt(str(record))))
        elif any("\udc80" <= letter <= "\udcff" for letter in text):
            unreadable.append(UnreadableRow(line, "not UTF-8", excerpt(text)))
        else:
            rest = {key: value for key, value in record.items() if key and key != name}
            image = _first(record, by_name, ("image",))
            group = _first(record, by_name, ("group", *URL_COLUMNS, "image"))
            rows.append(PromptRow(text.strip(), line, group or f"line {line}", image, rest))
    return rows, unreadable


def _first(record: dict[str, Any], by_name: dict[str, str], names: tuple[str, ...]) -> str | None:
    values = (record[by_name[name]] for name in names if name in by_name)
    return next((str(value) for value in values if not missing(value)), None)
