"""At which strength of a LoRA does memorization begin?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from interp.metrics import SSCD, as_batch
from interp.report.cases import Case
from interp.results.axes import PIXELS
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.session.load import LORA

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0)


def scales(
    session: Session,
    cases: Sequence[Case],
    seeds: Seeds,
    copy: SSCD,
    steps: Sequence[float] = SCALES,
    adapter: str = LORA,
) -> xr.Dataset:
    """Return the similarity of images to the training image at several scales of an adapter.

    Example:
        >>> curve = scales(sd, memorized, 4, sscd)
        >>> (curve["copy"] >= 0.5).mean(["prompt", "seed"])          # (scale)

    Args:
        session: the pipeline with its LoRA loaded; it has its scale again afterwards.
        cases: captions with their training image.
        seeds: images of each caption and scale.
        copy: the copy descriptor.
        steps: scales; 1 is the LoRA as it was trained.
        adapter: the LoRA's name in the pipeline, if it was not `load` that put it there.

    Returns:
        `copy(scale, prompt, seed)`, with `kind` and `group` of every prompt.
    """
    chosen = chosen_seeds(seeds)
    texts = [case.text for case in cases]
    originals = [as_batch(case.image) for case in cases if case.image is not None]
    found = []
    try:
        for scale in tqdm(steps, "scales", disable=None):
            session.pipe.set_adapters([adapter], [scale])
            images = session.run(texts, chosen).image.transpose("prompt", "seed", *PIXELS).values
            found.append([copy(*both).numpy() for both in zip(images, originals, strict=True)])
    finally:
        session.pipe.set_adapters([adapter], [1.0])
    return xr.Dataset(
        {"copy": (("scale", "prompt", "seed"), np.array(found))},
        {
            "scale": list(steps),
            "seed": list(chosen),
            "text": ("prompt", texts),
            "kind": ("prompt", [case.kind for case in cases]),
            "group": ("prompt", [case.group for case in cases]),
        },
    )
