"""Any results computed prompt by prompt, in a store that survives being killed.

Like `sweep`, but for results other than patched images, such as scores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xarray as xr
from tqdm.auto import tqdm

from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.sweep.plan import Plan, facts
from interp.sweep.store import Store
from interp.text.prompt import Prompt


def each_prompt(
    session: Session,
    texts: Sequence[str],
    seeds: Seeds,
    store: str | os.PathLike[str],
    make: Callable[[int, Prompt], xr.Dataset],
    *,
    labels: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any],
) -> xr.Dataset:
    """Return what `make(number, prompt)` gives for every prompt, along `prompt`.

    Example:
        >>> def scores(number, prompt):
        ...     return ip.detect.scores(sd.trace(prompt, seeds=4)).reset_coords(drop=True)
        >>> each_prompt(sd, texts, 4, "scores.zarr", scores, labels={}, settings={})

    Args:
        seeds: how many, or which; they are written down.
        store: `*.zarr`; the same call continues it.
        labels: coordinates of the prompts.
        settings: whatever else decides about the results, as JSON values.

    Raises:
        InterpError: the store was begun with other settings.
    """
    prompts = [session.encode(text) for text in texts]
    nothing = Plan(chosen_seeds(seeds), {"none": None}, None, {}, (), False)
    given = {name: list(values) for name, values in labels.items()}
    said = facts(session, nothing, prompts, list(texts), [None] * len(texts), given)
    kept = Store(store, {**said, **settings})
    with kept.alone():
        kept.check()
        missing = kept.missing()
        done = len(texts) - len(missing)
        with tqdm(total=len(texts), initial=done, unit="prompt", disable=None) as bar:
            for number in missing:
                kept.write(number, make(number, prompts[number]))
                bar.update()
    return kept.open().load()
