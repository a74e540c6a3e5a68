"""What the page says about each prompt, as plain values for the template.

No conclusions are drawn here: numbers are copied from the dataset, pictures are made small.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import xarray as xr

from interp import results
from interp.report.assess import CLEAN, MAJORITY, MEMORIZED
from interp.report.inline import picture, sprite
from interp.report.words import CATEGORIES, DETECTORS, SPECIAL, label
from interp.results.axes import POSITION
from interp.text.categories import CATEGORIES as NAMES

WHOLE, EDITED, THUMB = 256, 128, 64
"""Longest sides of pictures in pixels: unedited, edited, in the table."""
SHORT = 160
"""Prompts with more characters are folded."""


def sections(data: xr.Dataset) -> list[dict[str, Any]]:
    """One dictionary per prompt, in the order of the dataset.

    Example:
        >>> sections(data)[0]["verdict"]
        'memorized'
    """
    return [section(data, prompt) for prompt in range(data.sizes["prompt"])]


def section(data: xr.Dataset, prompt: int) -> dict[str, Any]:
    """What the page says about one prompt.

    Example:
        >>> section(data, 0)["chips"][0]["category"]
        'sot'
    """
    of = data.isel(prompt=prompt)
    text = str(of.text.item())
    known = bool(of.training_known)
    uri, ranges = sprite(of.overlay)
    phi = {str(name): float(of.phi.sel(player=name)) for name in of.player.values}
    return {
        "number": prompt + 1,
        "id": f"prompt-{prompt + 1:02d}",
        "text": text,
        "long": len(text) > SHORT,
        "letters": len(text),
        "truncated": str(of.truncated.item()),
        "kind": str(of.kind.item()),
        "views": int(of.views),
        "verdict": str(of.verdict.item()),
        "reasons": reasons(of, results.provenance(data)["threshold"]),
        "known": known,
        "training": picture(of.training_image.values, WHOLE) if known else None,
        "thumb": picture(of.image.isel(seed=0).values, THUMB),
        "images": [
            {
                "seed": int(seed.item()),
                "uri": picture(of.image.sel(seed=seed).values, WHOLE),
                "similarity": float(of.similarity.sel(seed=seed)),
            }
            for seed in of.seed
        ],
        "similarity": float(of.similarity.mean()) if known else np.nan,
        "alike": float(of.alike),
        "flagged": int(of.flagged.sum()),
        "chips": chips(of),
        "categories": categories(of),
        "edits": [edit(of, str(name)) for name in of.patch.values],
        "detectors": detectors(data, prompt),
        "phi": phi if all(np.isfinite(list(phi.values()))) else {},
        "sprite": uri,
        "slides": {
            "steps": of.sizes["step"],
            "categories": list(NAMES),
            "rows": of.sizes["map_y"],
            "columns": of.sizes["map_x"],
            "ranges": ranges,
            # JSON has no NaN: a category without positions has no attention either.
            "mass": of.mass.mean("layer").fillna(0).values.round(4).tolist(),
            "tokens": of.tokens.values.tolist(),
        },
    }


def reasons(of: xr.Dataset, threshold: float) -> list[str]:
    """The evidence of a verdict, as sentences.

    Example:
        >>> reasons(data.isel(prompt=0), 0.5)[0]
        '4 of 4 images are copies of the training image (similarity 0.50 or more).'
    """
    detectors, seeds = of.sizes["detector"], of.sizes["seed"]
    said = []
    if bool(of.training_known):
        copies = int((of.similarity >= threshold).sum())
        verb = "is a copy" if copies == 1 else "are copies"
        said.append(
            f"{copies} of {seeds} images {verb} of the training image "
            f"(similarity {threshold:.2f} or more)."
        )
    alike = "copies of one another" if float(of.alike) >= threshold else "different images"
    said.append(f"Different seeds give {alike} (likeness {float(of.alike):.2f}).")
    if float(of.copied) == 0 and float(of.alike) >= threshold:
        said.append("It may reproduce an image other than its own, perhaps another prompt's.")
    if bool(of.detector_threshold.notnull().any()):
        flagged = int(of.flagged.sum())
        said.append(f"{flagged} of {detectors} detectors are above the threshold of the controls.")
    else:
        said.append("There are no controls, so detectors have no thresholds.")
    if not bool(of.training_known):
        said.append(
            "The training image is unknown, so the verdict is based on seeds and detectors."
        )
    return said


def chips(of: xr.Dataset) -> list[dict[str, Any]]:
    """The positions of a prompt with their attention, all pads as one chip.

    Example:
        >>> [chip["word"] for chip in chips(data.isel(prompt=0))]
        ['start', 'a', 'goat', ..., 'end', 'padding']
    """
    kinds, words, mass = (of[name].values for name in ("position_category", "word", "token_mass"))
    found = []
    for _, run in groupby(
        range(of.sizes[POSITION]), key=lambda place: -1 if kinds[place] == "pad" else place
    ):
        places = list(run)
        share, kind = float(mass[places].sum()), str(kinds[places[0]])
        found.append(
            {
                "word": SPECIAL.get(kind, str(words[places[0]])),
                "category": kind,
                "count": len(places),
                "mass": share,
                "each": share / len(places),
            }
        )
    return found


def categories(of: xr.Dataset) -> list[dict[str, Any]]:
    """Each category's tokens and attention, in total and per token.

    Example:
        >>> categories(data.isel(prompt=0))[3]["tokens"]
        70
    """
    mass = of.mass.mean(["step", "layer"])
    found = []
    for name in NAMES:
        tokens = int(of.tokens.sel(category=name))
        share = float(mass.sel(category=name).fillna(0))
        each = share / tokens if tokens else np.nan
        said, meaning = CATEGORIES[name]
        found.append(
            {"category": name, "label": said, "meaning": meaning, "tokens": tokens,
             "mass": share, "each": each}
        )  # fmt: skip
    return found


def edit(of: xr.Dataset, name: str) -> dict[str, Any]:
    """One edit of one prompt: its images and their measures.

    Example:
        >>> edit(data.isel(prompt=0), "h")["similarity"]
        0.07
    """
    at = of.sel(patch=name)
    applies = bool(at.kept.notnull().any())
    images = [picture(image.values, EDITED) for image in at.edit_image] if applies else []
    return {
        "name": name,
        "label": label(name),
        "call": str(at.edit.item()),
        "role": str(at.role.item()),
        "images": images,
        "similarity": float(at.kept.mean()),
        "fidelity": float(at.edit_fidelity.mean()) if "edit_fidelity" in at else np.nan,
        "diversity": 1 - float(at.edit_alike),
    }


def detectors(data: xr.Dataset, prompt: int) -> list[dict[str, Any]]:
    """Every detector's score for a prompt, and its place among all prompts (0 to 100).

    Example:
        >>> detectors(data, 0)[0]["flagged"]
        True
    """
    found = []
    scores = data.score.mean("seed")
    for name in data.detector.values:
        each = scores.sel(detector=name)
        level = float(data.detector_threshold.sel(detector=name))
        ends = [float(each.min()), float(each.max()), *([level] if np.isfinite(level) else [])]
        low, span = min(ends), (max(ends) - min(ends)) or 1.0
        found.append(
            {
                "name": str(name),
                "meaning": DETECTORS.get(str(name), ""),
                "score": float(each.isel(prompt=prompt)),
                "threshold": level,
                "flagged": bool(data.flagged.sel(detector=name).isel(prompt=prompt)),
                "here": 100 * (float(each.isel(prompt=prompt)) - low) / span,
                "line": 100 * (level - low) / span if np.isfinite(level) else None,
                "others": [
                    {"at": 100 * (float(score) - low) / span, "kind": str(kind)}
                    for score, kind in zip(each.values, data.kind.values, strict=True)
                ],
            }
        )
    return found


#: For the template, which states the rule for verdicts.
RULE = {"memorized": MEMORIZED, "clean": CLEAN, "majority": MAJORITY}
