"""The drawings that scenes are made of: one of each object (see data/emoji)."""

import csv
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

FOLDER = Path(__file__).parents[2] / "data" / "emoji"


@cache
def files() -> dict[str, str]:
    """Object name to file name."""
    with open(FOLDER / "objects.csv", newline="", encoding="utf-8") as lines:
        return {row["name"]: row["file"] for row in csv.DictReader(lines)}


@cache
def sprite(name: str, size: int, mirrored: bool) -> np.ndarray:
    """One drawing, `[size, size, 4]` float32 in [0, 1], colours multiplied by alpha."""
    with Image.open(FOLDER / "google" / files()[name]) as drawing:
        # "RGBa" is premultiplied: resizing it leaves no dark fringe around the object.
        small = (
            drawing.convert("RGBA").convert("RGBa").resize((size, size), Image.Resampling.LANCZOS)
        )
        pixels = np.array(small, dtype=np.float32) / 255
    return pixels[:, ::-1].copy() if mirrored else pixels
