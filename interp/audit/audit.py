"""Every caption of a training set, generated again: whose images come back?

A caption is memorized if at least half of its seeds are copies of an image that it was trained
with. An image of another caption that comes back is counted apart.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from interp import detect
from interp.audit.pairs import Pair
from interp.audit.repeats import described, identical, repeats
from interp.detect.calibration import CLEAN, MAJORITY, MEMORIZED, UNCLEAR
from interp.metrics import SSCD
from interp.results.axes import PIXELS
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.session.settings import of_unet
from interp.sweep.each_prompt import each_prompt
from interp.text.prompt import Prompt


def audit(
    session: Session,
    pairs: Sequence[Pair],
    seeds: Seeds,
    store: str | os.PathLike[str],
    copy: SSCD,
    threshold: float,
    limit: int | None = None,
    client: Any = None,
) -> xr.Dataset:
    """Return for every caption whether its images come back, and what detectors say.

    Example:
        >>> audited = audit(sd, read_pairs("my_training_set"), 4, "out/audit.zarr", sscd, 0.5)
        >>> audited[["text", "shown", "copied", "verdict"]].to_dataframe()

    Args:
        session: the fine-tuned model and settings.
        pairs: its training set.
        seeds: images of each caption: how many, or which.
        store: `*.zarr`; the same call continues it.
        copy: the copy descriptor.
        threshold: similarity from which on an image is a copy.
        limit: at most so many captions, those whose images are repeated most first.
        client: a Dask client whose workers share images and captions.

    Returns:
        Over `prompt` (distinct captions) and `seed`: `own`, the similarity to the nearest image of
        the caption, `nearest`, to that of any other, and `which`, the number of that pair;
        `image`; `score(detector, prompt, seed)`; and of every caption `text`, `pair` (the number of
        its first), `group` (of its image), `shown` (how often a copy of its image is in the set),
        `exact` (how often that image itself), `copied`, `other` (shares of images), and
        `verdict`.
    """
    of_unet(session, "An audit")
    same = identical(pairs)
    known = described(pairs, same, copy, client)
    groups = repeats(known, threshold)
    shown, exactly = np.bincount(groups)[groups], np.bincount(same)[same]
    texts = np.array([pair.text for pair in pairs])
    captions, first = np.unique(texts, return_index=True)
    order = np.lexsort((first, -shown[first]))[:limit]
    captions, first = captions[order], first[order]
    mine = [np.isin(groups, groups[texts == caption]) for caption in captions]
    data = each_prompt(
        session,
        captions.tolist(),
        seeds,
        store,
        partial(_one, copy, known, chosen_seeds(seeds)),
        labels={
            "pair": first.tolist(),
            "group": groups[first].tolist(),
            "shown": shown[first].tolist(),
            "exact": exactly[first].tolist(),
        },
        settings={"descriptor": copy.provenance(), "pairs": len(pairs), "repeats_from": threshold},
        given=mine,
        client=client,
    )
    return concluded(data, threshold)


def _one(
    copy: SSCD,
    known: Float[Tensor, "pair d"],
    seeds: Sequence[int],
    session: Session,
    task: tuple[Prompt, Bool[np.ndarray, " pair"]],
) -> xr.Dataset:
    """One caption, whose images and their copies in the training set are marked."""
    prompt, marked = task
    trace = session.trace(prompt, seeds, record=detect.recorders(session.pipe), images=True)
    images = trace.image.isel(prompt=0).transpose("seed", *PIXELS)
    likeness, mine = copy.descriptors(images.values) @ known.T, torch.tensor(marked)
    others = likeness.masked_fill(mine, -1)
    found = xr.Dataset(
        {
            "own": (("prompt", "seed"), rearrange(likeness[:, mine].amax(1), "s -> 1 s")),
            "nearest": (("prompt", "seed"), rearrange(others.amax(1), "s -> 1 s")),
            "which": (("prompt", "seed"), rearrange(others.argmax(1), "s -> 1 s")),
            "image": (("prompt", "seed", *PIXELS), images.values[None]),
        },
        {"seed": trace.seed.values},
    )
    scores = detect.scores(trace).reset_coords(drop=True)
    return found.assign(score=scores.to_dataarray("detector"))


def concluded(data: xr.Dataset, threshold: float) -> xr.Dataset:
    """Add what follows from the similarities: shares of copies, and verdicts.

    Example:
        >>> concluded(audited, 0.6).verdict
    """
    own = data.own >= threshold
    copied = own.mean("seed")
    other = (~own & (data.nearest >= threshold)).mean("seed")
    some = (copied > 0) | (other > 0)
    verdict = xr.where(copied >= MAJORITY, MEMORIZED, xr.where(some, UNCLEAR, CLEAN))
    return data.assign_coords(copied=copied, other=other, verdict=verdict.astype(str))
