"""Prompt files as users have them: CSV with any separator, JSON lines, or plain text.

Published prompt lists disagree about the column (`prompt`, `Caption`, `text`), the separator and
the spelling of everything else, and several of their prompts share one training image. This reader
accepts them all, keeps every other column, groups rows by image (intervals must resample images,
not prompts), and lists each row that it could not read. It fetches nothing: a URL is a label.
"""

import csv
import io
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from interp.errors import InterpError

TEXT_COLUMNS = ("prompt", "caption", "text")
URL_COLUMNS = ("url", "urls")
SEPARATORS = ",;\t|"


@dataclass(frozen=True)
class PromptRow:
    """One prompt: its text, the line it stands on, its image and group where the file has them."""

    text: str
    line: int
    group: str
    image: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UnreadableRow:
    """A row that gave no prompt: its line (counted from 1), why, and how it begins."""

    line: int
    why: str
    excerpt: str


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
        """What to resample in a bootstrap: equal for rows that share a training image."""
        return [row.group for row in self.rows]

    @property
    def images(self) -> list[str | None]:
        return [row.image for row in self.rows]

    def pictures(self) -> list[Image.Image | None]:
        """Return each row's training image where it is a file; None where it is not here.

        Example:
            >>> ip.sweep(sd, file, references=file.pictures(), ...)

        Relative paths start at the prompt file. URLs are never fetched.
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
    """Read the prompts of a CSV, JSON, JSON lines or text file.

    Example:
        >>> read_prompts("memorized.csv").texts

    Args:
        path: `.txt` is one prompt a line. Anything else is JSON if it starts like JSON, and a CSV
            whose separator is found from the header otherwise.
        column: the prompt column; by default `prompt`, `caption` or `text`, in any case.

    Rows are grouped by a column `group`, else by identical `url` or `urls`, else by identical
    `image`; a row with none of them is its own group. Rows without a prompt are warned about and
    kept in `unreadable`.

    Raises:
        InterpError: the file is missing, has no prompt column, or has no readable prompt.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InterpError(
            asked=f"Prompts from {str(path)!r} were asked for.",
            exists="There is no such file.",
            todo="Give a CSV, JSON lines or text file.",
        )
    # Bytes that are no UTF-8 become surrogates here, and their row unreadable below.
    content = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    records: Iterator[tuple[int, dict[str, Any] | UnreadableRow]]
    if path.suffix.lower() == ".txt":
        lines = enumerate(content.splitlines(), 1)
        records = ((n, {"text": line}) for n, line in lines if line.strip())
        column = "text"
    elif content.lstrip()[:1] in ("{", "[", '"') and path.suffix.lower() not in (".csv", ".tsv"):
        records = _json_records(content)
    else:
        records = _csv_records(content)
    rows, unreadable = _rows(list(records), path, column)
    if unreadable:
        listed = "\n".join(f"  line {bad.line}: {bad.why}: {bad.excerpt}" for bad in unreadable)
        warnings.warn(f"{len(unreadable)} unreadable rows in {path}:\n{listed}", stacklevel=2)
    if not rows:
        raise InterpError(
            asked=f"Prompts from {path.name} were asked for.",
            exists=f"It has {len(unreadable)} rows, none with a prompt.",
            todo="Put one prompt on a line (.txt), or name a column prompt, caption or text.",
        )
    return PromptFile(path, tuple(rows), tuple(unreadable))


def _csv_records(content: str) -> Iterator[tuple[int, dict[str, Any] | UnreadableRow]]:
    header_line = content.partition("\n")[0]
    separator = max(SEPARATORS, key=lambda s: len(next(csv.reader([header_line], delimiter=s), [])))
    if separator not in header_line:
        # One column: commas in it are text. The unit separator stands for "never splits".
        separator = "\x1f"
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
    header = [name.strip() for name in next(reader, [])]
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield line, UnreadableRow(line, str(error), "")
            continue
        if fields is None:
            return
        if not fields:
            continue
        if len(fields) != len(header):
            why = f"{len(fields)} fields where the header has {len(header)}"
            if reader.line_num > line:
                why += f" (lines {line} to {reader.line_num}: an unclosed quote?)"
            yield line, UnreadableRow(line, why, _excerpt(separator.join(fields)))
        else:
            yield line, dict(zip(header, fields, strict=True))


def _json_records(content: str) -> Iterator[tuple[int, dict[str, Any] | UnreadableRow]]:
    try:
        whole = json.loads(content)
        items = list(enumerate(whole if isinstance(whole, list) else [whole], 1))
    except json.JSONDecodeError:
        items = []
        for line, text in enumerate(content.splitlines(), 1):
            try:
                items += [(line, json.loads(text))] if text.strip() else []
            except json.JSONDecodeError as error:
                yield line, UnreadableRow(line, f"not JSON ({error.msg})", _excerpt(text))
    for line, item in items:
        if isinstance(item, str):
            yield line, {"text": item}
        elif isinstance(item, dict):
            yield line, item
        else:
            yield line, UnreadableRow(line, "neither an object nor a string", _excerpt(str(item)))


def _rows(
    records: list[tuple[int, dict[str, Any] | UnreadableRow]], path: Path, column: str | None
) -> tuple[list[PromptRow], list[UnreadableRow]]:
    rows, unreadable = [], []
    for line, record in sorted(records, key=lambda pair: pair[0]):
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
                todo="Name the column of prompts: read_prompts(path, column=...).",
            )
        text = record[name]
        if not isinstance(text, str) or not text.strip():
            unreadable.append(UnreadableRow(line, "no prompt", _excerpt(str(record))))
        elif any("\udc80" <= letter <= "\udcff" for letter in text):
            unreadable.append(UnreadableRow(line, "not UTF-8", _excerpt(text)))
        else:
            rest = {key: value for key, value in record.items() if key and key != name}
            image = _first(record, by_name, ("image",))
            group = _first(record, by_name, ("group", *URL_COLUMNS, "image"))
            rows.append(PromptRow(text.strip(), line, group or f"line {line}", image, rest))
    return rows, unreadable


def _first(record: dict[str, Any], by_name: dict[str, str], names: tuple[str, ...]) -> str | None:
    values = (record[by_name[name]] for name in names if name in by_name)
    return next((str(value) for value in values if value not in (None, "", [])), None)


def _excerpt(text: str) -> str:
    return repr(text.encode("utf-8", "replace").decode()[:60])
