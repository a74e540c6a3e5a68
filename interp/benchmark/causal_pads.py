"""This package's mitigation: pads replaced only at the layers and steps where they act.

The causal map of some memorized prompts says where exchanging pads changes guidance, cell by cell;
the cells with most of it are patched, and nothing else. How many is chosen by what becomes of those
same prompts' images and of ordinary ones. Judge it by other prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from interp import attribute
from interp.metrics import Metric
from interp.patch import Patch, mask, mean
from interp.report.subject import Subject
from interp.session import Session
from interp.text.prompt import Prompt

SHARES = (0.05, 0.15, 0.4, 1.0)
"""Shares of the cells that are tried, those with the largest effect first."""
SEED = 1000
"""Of the images by which a share is chosen; no benchmark comes this far."""
Place = Callable[..., Patch]


def causal_pads(
    session: Session,
    memorized: Sequence[Subject],
    ordinary: Sequence[str],
    similarity: Metric | None,
    keeps: float,
    folder: Path | None = None,
) -> Patch:
    """Mask pads, or put the mean of ordinary prompts' pads there, where pads act.

    Example:
        >>> shield = causal_pads(sd, memorized[:6], captions, sscd, keeps=0.5)
        >>> sd.run(other_prompts, patch=shield)

    Args:
        session: pipeline and settings.
        memorized: prompts with training images, which are not evaluated afterwards.
        ordinary: prompts that are not memorized.
        similarity, keeps: how copies are told from other images.
        folder: keeps the patch that was found in `causal_pads.json`, and reads it there.

    Returns:
        The patch for which the share of memorized images that are freed, plus the similarity of
        ordinary images to what they are without it, is largest.
    """
    kept = None if folder is None else folder / "causal_pads.json"
    if kept is not None and kept.is_file():
        return Patch.from_json(kept.read_text(), session.pipe)
    donors = session.encode(list(ordinary))
    effect = where_pads_act(session, [case.text for case in memorized], donors)
    ways: dict[str, Place] = {
        "mean": lambda **where: mean("pad", donors, **where),
        "mask": lambda **where: mask("pad", **where),
    }
    tried = {
        f"{way} {share:g}": placed(make, largest(effect, share))
        for way, make in ways.items()
        for share in SHARES
    }
    texts = [*(case.text for case in memorized), *ordinary[: len(memorized)]]
    grid = session.run(texts, [SEED], {"none": None, **tried}).image
    images = grid.isel(seed=0).transpose("patch", "prompt", "pixel_y", "pixel_x", "rgb").values
    worth = [_worth(images[0], edited, memorized, similarity, keeps) for edited in images[1:]]
    best = list(tried.values())[int(np.argmax(worth))]
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(best.to_json())
    return best


def where_pads_act(
    session: Session, texts: Sequence[str], donors: Sequence[Prompt]
) -> xr.DataArray:
    """How much of guidance goes, `(layer, step)`, where one cell has the ordinary pads' mean.

    Example:
        >>> where_pads_act(sd, memorized, sd.encode(captions)).mean("step")

    The share of `|eps_c - eps_u|` at that step, a mean over prompts.
    """
    trace = attribute.causal_trace(session, list(texts), mean("pad", donors))
    gone = 1 - trace["value"] / trace.clean
    return gone.mean(["prompt", "seed"]).transpose("layer", "step")


def largest(effect: xr.DataArray, share: float) -> dict[str, tuple[int, ...]]:
    """The steps of each layer that are among this share of all cells, by effect.

    Example:
        >>> largest(where_pads_act(sd, texts, donors), 0.1)
        {'up.0.0': (0, 1, 2), 'up.0.1': (0, 3)}
    """
    count = max(1, round(share * effect.size))
    chosen = np.zeros(effect.size, dtype=bool)
    chosen[np.argsort(-effect.values.ravel(), kind="stable")[:count]] = True
    rows = zip(effect.layer.values.tolist(), chosen.reshape(effect.shape), strict=True)
    steps = effect.step.values
    return {layer: tuple(steps[row].tolist()) for layer, row in rows if row.any()}


def placed(make: Place, cells: dict[str, tuple[int, ...]]) -> Patch:
    """The patch in those cells, an operation for all layers that share their steps.

    Example:
        >>> placed(lambda **where: mask("pad", **where), {"mid.0": (0, 1), "up.0.0": (0, 1)})
        mask('pad', layers=('mid.0', 'up.0.0'), steps=(0, 1))
    """
    layers: dict[tuple[int, ...], list[str]] = {}
    for layer, steps in cells.items():
        layers.setdefault(steps, []).append(layer)
    parts = [make(layers=tuple(names), steps=steps) for steps, names in layers.items()]
    return Patch(tuple(operation for part in parts for operation in part.operations))


def _worth(
    plain: np.ndarray, edited: np.ndarray, memorized: Sequence[Any], similarity: Any, keeps: float
) -> float:
    """The share of memorized images freed, plus the likeness of ordinary images to themselves."""
    count = len(memorized)
    pairs = zip(edited, memorized, strict=False)
    freed = [float(similarity(image[None], case.image)[0]) < keeps for image, case in pairs]
    same = [
        float(similarity(after[None], before)[0])
        for after, before in zip(edited[count:], plain[count:], strict=True)
    ]
    return float(np.mean(freed) + np.mean(same))
