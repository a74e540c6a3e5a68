"""The training set of a fine-tuned model: images with captions, in any form that trainers read.

That is a folder of images with a text file beside each, a folder with `metadata.jsonl` or
`metadata.csv` (Hugging Face's imagefolder), or a CSV, JSON lines or Parquet file with a column of
images and one of captions. Nothing is fetched.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from interp.errors import InterpError
from interp.text.files import TEXT_COLUMNS
from interp.text.formats import UnreadableRow, missing, records

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
IMAGE_COLUMNS = ("file_name", "image", "image_path", "path", "file")


@dataclass(frozen=True)
class Pair:
    """A caption, and the image that training showed with it: a file, or the bytes of one."""

    text: str
    source: Path | bytes

    def image(self) -> Image.Image:
        """The image, in RGB."""
        return Image.open(io.BytesIO(self.packed())).convert("RGB")

    def packed(self) -> bytes:
        """The image as its file has it."""
        return self.source if isinstance(self.source, bytes) else self.source.read_bytes()


def read_pairs(path: str | Path) -> list[Pair]:
    """Return the pairs of a folder or file, in its order; repeated ones are all there.

    Example:
        >>> len(read_pairs("my_training_set"))
        1204

    Images without a caption, and rows whose image is not there, are left out with a warning.

    Raises:
        InterpError: there is no such folder or file, or no pair in it.
    """
    path = Path(path).expanduser()
    table = next((path / name for name in METADATA if (path / name).is_file()), path)
    if not path.exists():
        raise InterpError(
            f"The training set {str(path)!r} was asked for.",
            "There is no such folder or file.",
            "Give a folder of images with captions, or a table of them.",
        )
    found, left_out = [], []
    for where, pair in _beside(path) if table.is_dir() else _rows(table):
        if pair is None:
            left_out.append(where)
        else:
            found.append(pair)
    if left_out:
        shown = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        warnings.warn(
            f"{len(left_out)} of {len(left_out) + len(found)} images of {path.name} have no "
            f"caption, or are not there: {shown}.",
            stacklevel=2,
        )
    if not found:
        raise InterpError(
            f"The training set {str(path)!r} was asked for.",
            "It holds no image with a caption.",
            f"Put a .txt beside every image ({', '.join(SUFFIXES)}), or write {METADATA[0]} with "
            "file_name and text.",
        )
    return found


def _beside(folder: Path) -> Iterator[tuple[str, Pair | None]]:
    """Images, each with its caption in a text file of the same name."""
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in SUFFIXES:
            caption = file.with_suffix(".txt")
            text = caption.read_text(encoding="utf-8").strip() if caption.is_file() else ""
            yield file.name, Pair(text, file) if text else None


def _rows(table: Path) -> Iterator[tuple[str, Pair | None]]:
    """The rows of a table, with images by name, relative to it, or as bytes."""
    for line, record in records(table):
        if isinstance(record, UnreadableRow):
            yield f"line {line}", None
            continue
        text = _of(record, TEXT_COLUMNS, table)
        source = _source(_of(record, IMAGE_COLUMNS, table), table.parent)
        usable = source is not None and isinstance(text, str) and not missing(text)
        yield f"line {line}", Pair(text.strip(), source) if usable and source else None


def _of(record: dict[str, Any], names: tuple[str, ...], table: Path) -> Any:
    """The value of the first of these columns that there is, in any case."""
    columns = {name.lower(): name for name in record if name}
    name = next((columns[name] for name in names if name in columns), None)
    if name is None:
        raise InterpError(
            f"A column {' or '.join(names)} was looked for in {table.name}.",
            f"Its columns are {', '.join(columns)}.",
            "Rename yours to one of them.",
        )
    return record[name]


def _source(value: Any, folder: Path) -> Path | bytes | None:
    if isinstance(value, dict):  # how Hugging Face's Parquet files hold images
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    file = None if missing(value) else folder / str(value)
    return file if file is not None and file.is_file() else None
