"""From a file's bytes to records: CSV, JSON, JSON lines, Parquet or text, in any encoding.

What a record means (which column is the prompt, what is a group) is decided in `files`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import InterpError

SEPARATORS = ",;\t|"
MISSING = frozenset({"", "nan", "none", "null", "n/a", "na", "<na>", "nat"})
"""How files mark a missing value, in lower case."""
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
PARQUET = b"PAR1"
OTHERS = {
    b"PK\x03\x04": "a zip archive (an Excel file is one too)",
    b"\x1f\x8b": "gzip",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite database",
    b"\x89HDF": "HDF5",
}
"""First bytes of files that this reader refuses."""


@dataclass(frozen=True)
class UnreadableRow:
    """A row without a readable prompt: its line (counted from 1), why, and how it begins."""

    line: int
    why: str
    excerpt: str


Record = tuple[int, dict[str, Any] | UnreadableRow]


def records(path: Path) -> list[Record]:
    """The rows of a file in any of the formats, with their lines; plain text has the column `text`.

    Example:
        >>> records(Path("memorized.parquet"))[0]
        (1, {'Caption': 'The No Limits Business Woman Podcast', 'URL': 'https://...'})

    Raises:
        InterpError: the file is in another format, named in the message.
    """
    content = path.read_bytes()
    if content.startswith(PARQUET):
        return parquet_records(path)
    for mark, kind in OTHERS.items():
        if content.startswith(mark):
            raise InterpError(
                asked=f"Prompts from {path.name} were asked for.",
                exists=f"It is {kind}.",
                todo="Save it as CSV, JSON lines, Parquet or text.",
            )
    text = decode(content)
    if path.suffix.lower() == ".txt":
        return [(n, {"text": line}) for n, line in enumerate(lines(text), 1) if line.strip()]
    if text.lstrip()[:1] in ("{", "[", '"') and path.suffix.lower() not in (".csv", ".tsv"):
        return list(json_records(text))
    return list(csv_records(text))


def decode(content: bytes) -> str:
    """Decode UTF-8, or UTF-16 or UTF-32 if a byte order mark or zero bytes indicate it.

    Other bytes become surrogates, so that their row can be reported as unreadable.
    """
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return content.decode(encoding, errors="replace")
    start = content[:1000]
    if start.count(0) > len(start) // 4:  # every second byte of western text
        little = start[1::2].count(0) > start[::2].count(0)
        return content.decode("utf-16-le" if little else "utf-16-be", errors="replace")
    return content.decode("utf-8-sig", errors="surrogateescape")


def lines(text: str) -> list[str]:
    r"""The lines of a text, ended by \n, \r\n or a lone \r; other separators are content."""
    return re.split("\r\n|\n|\r", text)


def missing(value: Any) -> bool:
    """Whether a value is missing: None, NaN, an empty list, `nan`, `N/A`, `null`.

    Example:
        >>> [missing(value) for value in (None, float("nan"), "N/A", "0", 0)]
        [True, True, True, False, False]
    """
    if isinstance(value, str):
        return value.strip().lower() in MISSING
    if isinstance(value, list | tuple):
        return all(missing(part) for part in value)
    return value is None or value != value  # NaN of any library


def csv_records(text: str) -> Iterator[Record]:
    """Rows of a CSV; the separator is guessed from the header, and repeated headers are skipped."""
    header_line = lines(text)[0]
    separator = max(SEPARATORS, key=lambda s: len(next(csv.reader([header_line], delimiter=s), [])))
    if separator not in header_line:
        # One column, whose commas are text: the unit separator never splits it.
        separator = "\x1f"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
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
        if not fields or [name.strip() for name in fields] == header:
            continue
        if len(fields) != len(header):
            why = f"{len(fields)} fields where the header has {len(header)}"
            if reader.line_num > line:
                why += f" (lines {line} to {reader.line_num}: an unclosed quote?)"
            yield line, UnreadableRow(line, why, excerpt(separator.join(fields)))
        else:
            yield line, dict(zip(header, fields, strict=True))


def json_records(text: str) -> Iterator[Record]:
    """Objects or strings of a JSON list, or one on each line."""
    try:
        whole = json.loads(text)
        items = list(enumerate(whole if isinstance(whole, list) else [whole], 1))
    except json.JSONDecodeError:
        items = []
        for line, part in enumerate(lines(text), 1):
            try:
                items += [(line, json.loads(part))] if part.strip() else []
            except json.JSONDecodeError as error:
                yield line, UnreadableRow(line, f"not JSON ({error.msg})", excerpt(part))
    for line, item in items:
        if isinstance(item, str):
            yield line, {"text": item}
        elif isinstance(item, dict):
            yield line, item
        else:
            yield line, UnreadableRow(line, "neither an object nor a string", excerpt(str(item)))


def parquet_records(path: Path) -> list[Record]:
    """Rows of a Parquet file, counted from 1."""
    import pyarrow
    from pyarrow import parquet

    try:
        return list(enumerate(parquet.read_table(path).to_pylist(), 1))
    except pyarrow.ArrowException as error:
        raise InterpError(
            asked=f"Prompts from {path.name} were asked for.",
            exists=f"It starts like Parquet but cannot be read: {error}.",
            todo="Write or download it again.",
        ) from error


def excerpt(text: str) -> str:
    """The beginning of a row, for the list of unreadable rows."""
    return repr(text.encode("utf-8", "replace").decode()[:60])
