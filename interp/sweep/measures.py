"""Metrics of one prompt's images, each applied as its attribute `against` says.

against = "image"    metric(images, reference): the baseline of the same seed and, if known, the
                     training image; variable (..., seed, reference)
against = "prompt"   metric(images, text): the text that the user wrote; variable (..., seed)
against = "seeds"    metric(images, groups): across seeds; variable (...)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from torch import Tensor

from interp.errors import InterpError

REFERENCES = ("baseline", "training")
AXES = {"image": ("patch", "seed", "reference"), "prompt": ("patch", "seed"), "seeds": ("patch",)}
Variable = tuple[tuple[str, ...], np.ndarray]


def measured(
    metrics: Mapping[str, Any],
    images: UInt8[np.ndarray, "patch seed h w rgb"],
    text: str,
    reference: Float[Tensor, "1 3 newh neww"] | None,
) -> dict[str, Variable]:
    """Return every metric of one prompt's images as float32 variables.

    Example:
        >>> measured({"sscd": sscd, "clipscore": clip}, images, "a photo of a goat", None)

    Args:
        metrics: by name; a callable without `against` compares images.
        images: the first patch is the baseline.
        text: the prompt as the user wrote it.
        reference: the training image.

    Raises:
        InterpError: a metric does not return one number per image, or per patch.
    """
    patches, seeds = images.shape[:2]
    flat = rearrange(images, "patch seed h w rgb -> (patch seed) h w rgb")
    found = {}
    for name, metric in metrics.items():
        against = getattr(metric, "against", "image")
        if against == "seeds":
            groups = [patch for patch in range(patches) for _ in range(seeds)]
            values = _numbers(name, metric(flat, groups), patches)
        elif against == "prompt":
            scores = _numbers(name, metric(flat, text), len(flat))
            values = rearrange(scores, "(patch seed) -> patch seed", seed=seeds)
        else:
            values = np.full((patches, seeds, len(REFERENCES)), np.nan, dtype=np.float32)
            # One reference for all patches of a seed, so that metrics process it once.
            for seed in range(seeds):
                alike = metric(images[:, seed], images[0, seed])
                values[:, seed, 0] = _numbers(name, alike, patches)
            if reference is not None:
                scores = _numbers(name, metric(flat, reference), len(flat))
                values[..., 1] = rearrange(scores, "(patch seed) -> patch seed", seed=seeds)
        found[name] = (AXES[against], values)
    return found


def rehearse(
    metrics: Mapping[str, Any],
    seeds: int,
    size: tuple[int, int],
    references: Mapping[tuple[int, ...], Float[Tensor, "1 3 h w"]],
) -> None:
    """Try the metrics on blank images, once for each size of training image.

    Raises:
        InterpError: a metric can not work: a single seed has no diversity, or sizes do not fit.
    """
    unknown = {getattr(metric, "against", "image") for metric in metrics.values()} - set(AXES)
    if unknown:
        raise InterpError(
            f"A metric with against={sorted(unknown)[0]!r} was passed.",
            f"The attribute against is one of {', '.join(map(repr, AXES))}.",
            "Set it to one of them, or leave it out for metrics of two images.",
        )
    blank = repeat(np.zeros(3, np.uint8), "rgb -> 1 seed h w rgb", seed=seeds, h=size[0], w=size[1])
    for reference in (*references.values(),) or (None,):
        measured(metrics, blank, "a photo", reference)


def _numbers(name: str, values: Any, count: int) -> Float[np.ndarray, " n"]:
    array = torch.as_tensor(values).detach().float().cpu().numpy()
    if array.shape != (count,):
        raise InterpError(
            f"The metric {name!r} should return {count} numbers.",
            f"It returned an array of shape {array.shape}.",
            "Return one number per image, or per group if it compares seeds.",
        )
    return array
