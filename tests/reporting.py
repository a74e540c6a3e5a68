"""A report's dataset made by hand: sixteen prompts, eight of them memorized through their pads.

What the page shows must not depend on a model, so neither do the tests of it. Every number has a
known truth: memorized prompts draw one picture, and stop when the pads are gone.
"""

from typing import Any

import numpy as np
import xarray as xr
from PIL import Image, ImageDraw

from interp import detect, results
from interp.report import edits
from interp.report.assess import assess
from interp.report.edits import PLAYERS, role
from interp.text.categories import CATEGORIES

THRESHOLD = 0.6
SIDE, STEPS, LAYERS, SEEDS, EDITED, MAP = 64, 25, 7, 4, 2, 8
HOSTILE = (
    "<script>alert('owned')</script><img src=x onerror=alert(1)>",
    "\"quotes\" & 'apostrophes' </title></style></script> {{ 7 * 7 }} {% raw %}",
    "תמונה של עז בכנסייה ‮and back صورة لماعز",
    "a goat 🐐 in a church ⛪ 👩‍👩‍👧‍👦 $x_1$ and $ 5 \\frac{ \n new line",
    "a very long prompt " * 527,
)
WORDS = ["goat", "tower", "boat", "lamp", "tiger", "cloud", "piano", "bridge"]


def picture(seed: int) -> np.ndarray:
    """A picture of its own for every seed."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (SIDE, SIDE), tuple(rng.integers(120, 255, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, r = rng.integers(0, SIDE, 3).tolist()
        pen.ellipse(
            (x - r / 3, y - r / 3, x + r / 3, y + r / 3), tuple(rng.integers(0, 255, 3).tolist())
        )
    return np.asarray(image)


def dataset(texts: tuple[str, ...] | None = None, full: bool = False) -> xr.Dataset:
    """The dataset; other texts may stand in for the first prompts'."""
    rng = np.random.default_rng(0)
    count, names = 16, ["none", *edits(full)]
    given = [f"a {word} by {number} windmills" for number, word in enumerate(WORDS * 2)]
    given[: len(texts or ())] = texts or ()
    memorized = np.arange(count) < 8
    broken = np.array([_breaks(name) for name in names])
    kept = np.where(memorized[:, None] & ~broken, 0.92, 0.2)[..., None]
    kept = np.clip(kept + rng.normal(0, 0.03, (count, len(names), EDITED)), -1, 1)
    to_baseline = np.where((memorized[:, None] & broken)[..., None], 0.2, 0.9) + 0 * kept
    to_baseline[:, 0] = 1
    training = kept.copy()
    known = np.arange(count) != 7
    training[~known] = np.nan
    both = np.stack([to_baseline, training], -1)
    mass = rng.dirichlet((40, 6, 4, 50), (count, STEPS, LAYERS))
    token = np.full((count, 77), 0.5 / 70)
    token[:, 0], token[:, 1:6], token[:, 6] = 0.4, 0.012, 0.04
    kinds = [CATEGORIES[0], *["prompt"] * 5, "eot", *["pad"] * 70]
    score = np.where(memorized, 3.0, 1.0)[:, None, None] + rng.normal(0, 0.2, (count, 6, SEEDS))
    data = xr.Dataset(
        {
            "image": _images(memorized, SEEDS),
            "training_image": (
                ("prompt", "pixel_y", "pixel_x", "rgb"),
                np.stack([picture(n) if known[n] else 0 * picture(n) for n in range(count)]),
            ),
            "training_known": ("prompt", known),
            "similarity": (
                ("prompt", "seed"),
                np.where(
                    known[:, None],
                    np.where(memorized, 0.93, 0.15)[:, None] + rng.normal(0, 0.03, (count, SEEDS)),
                    np.nan,
                ),
            ),
            "alike": ("prompt", np.where(memorized, 0.9, 0.25)),
            "mass": (("prompt", "step", "layer", "category"), mass),
            "overlay": (
                ("prompt", "step", "category", "map_y", "map_x"),
                rng.random((count, STEPS, 4, MAP, MAP)),
            ),
            "token_mass": (("prompt", "position"), token),
            "score": (("prompt", "detector", "seed"), score),
            "edit_image": _edited(memorized, broken),
            "edit_similarity": (("prompt", "patch", "edit_seed", "reference"), both),
            "edit_alike": (("prompt", "patch"), kept.mean(-1)),
            "edit_fidelity": (
                ("prompt", "patch", "edit_seed"),
                0.3 + rng.normal(0, 0.01, kept.shape),
            ),
        },
        {
            "prompt": range(count),
            "text": ("prompt", given),
            "truncated": ("prompt", ["prompt " * 400 if len(t) > 1000 else "" for t in given]),
            "kind": ("prompt", np.where(memorized, "memorized", "control")),
            "group": ("prompt", [f"image {n}" for n in range(count)]),
            "views": ("prompt", np.where(memorized, 256, 0)),
            "word": (("prompt", "position"), [_words(t) for t in given]),
            "position_category": (("prompt", "position"), [kinds] * count),
            "tokens": (("prompt", "category"), [[1, 5, 1, 70]] * count),
            "seed": range(SEEDS),
            "patch": names,
            "role": ("patch", [role(name) for name in names]),
            "edit": ("patch", [repr(edits(full).get(name)) for name in names]),
            "reference": ["baseline", "training"],
            "category": list(CATEGORIES),
            "layer": ["down.0.0", "down.1.0", "mid.0", "up.0.0", "up.0.1", "up.1.0", "up.1.1"],
            "detector": list(detect.DETECTORS),
        },
    )
    data = assess(results.stamp(data, **_facts(given, full)), THRESHOLD)
    change = np.full((count, len(PLAYERS), STEPS, LAYERS), np.nan)
    change[memorized] = -0.1
    change[memorized, PLAYERS.index("pad"), : STEPS // 3, 4] = -5.0
    return data.assign(change=(("prompt", "player", "step", "layer"), change))


def _breaks(name: str) -> bool:
    """Whether an edit takes the pads away."""
    kept = ("none", "c", "f", "zero prompt and eot", "b", "random token addition (RTA)")
    return name not in kept


def _words(text: str) -> list[str]:
    words = (text.split() + ["and"] * 5)[:5]
    return ["<|startoftext|>", *words, *["<|endoftext|>"] * 71]


def _images(memorized: np.ndarray, seeds: int) -> tuple[tuple[str, ...], np.ndarray]:
    rows = [
        [picture(n if memorized[n] else 100 * n + seed) for seed in range(seeds)]
        for n in range(len(memorized))
    ]
    return ("prompt", "seed", "pixel_y", "pixel_x", "rgb"), np.array(rows)


def _edited(memorized: np.ndarray, broken: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    dims = ("prompt", "patch", "edit_seed", "pixel_y", "pixel_x", "rgb")
    rows = [
        [
            [
                picture(n if memorized[n] and not gone else 1000 * n + 10 * p + s)
                for s in range(EDITED)
            ]
            for p, gone in enumerate(broken)
        ]
        for n in range(len(memorized))
    ]
    return dims, np.array(rows)


def _facts(texts: list[str], full: bool) -> dict[str, Any]:
    return {
        "model": {"id": "embedded", "parts": {"unet": "0" * 16}, "adapters": {}},
        "packages": {"python": "3.11", "torch": "2.13"},
        "scheduler": {"class": "DDIMScheduler"},
        "steps": STEPS, "guidance": 7.5, "height": SIDE, "width": SIDE, "uncond": "''",
        "dtype": "float32", "device": "cpu", "prompts": texts, "seeds": list(range(SEEDS)),
        "edit_seeds": list(range(EDITED)),
        "patches": {name: repr(edit) for name, edit in edits(full).items()},
        "similarity": {"name": "sscd", "sha256": "1" * 64},
        "fidelity": {"name": "clipscore", "sha256": "2" * 64},
        "threshold": THRESHOLD, "command": "interp report --steps 25",
        "made": "2026-01-01T00:00:00",
    }  # fmt: skip
