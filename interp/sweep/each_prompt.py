"""Any results computed prompt by prompt, in a store that survives being killed.

Like `sweep`, but for results other than patched images, such as scores.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import dask
import xarray as xr
from tqdm.auto import tqdm

from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.sweep.cluster import Make, each
from interp.sweep.plan import Plan, facts
from interp.sweep.store import Store


def each_prompt(
    session: Session,
    texts: Sequence[str],
    seeds: Seeds,
    store: str | os.PathLike[str],
    make: Make,
    *,
    labels: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any],
    given: Sequence[Any] | None = None,
    client: Any = None,
) -> xr.Dataset:
    """Return what `make(session, (prompt, its given))` gives for every prompt, along `prompt`.

    Example:
        >>> def scores(sd, task):
        ...     return ip.detect.scores(sd.trace(task[0], seeds=4)).reset_coords(drop=True)
        >>> each_prompt(sd, texts, 4, "scores.zarr", scores, labels={}, settings={})

    Args:
        seeds: how many, or which; they are written down.
        store: `*.zarr`; the same call continues it.
        make: sent to workers where there are some.
        labels: coordinates of the prompts.
        settings: whatever else decides about the results, as JSON values.
        given: what `make` is told of each prompt beside it.
        client: a `dask.distributed.Client` whose workers share the prompts.

    Raises:
        InterpError: the store was begun with other settings.
    """
    prompts = [session.encode(text) for text in texts]
    nothing = Plan(chosen_seeds(seeds), {"none": None}, None, {}, (), False)
    columns = {name: list(values) for name, values in labels.items()}
    said = facts(session, nothing, prompts, list(texts), [None] * len(texts), columns)
    kept = Store(store, {**said, **settings})
    with kept.alone():
        kept.check()
        told = [None] * len(texts) if given is None else given
        tasks = {number: (prompts[number], told[number]) for number in kept.missing()}
        done = len(texts) - len(tasks)
        bar = tqdm(total=len(texts), initial=done, unit="prompt", disable=None)
        with bar, dask.config.set(scheduler="threads"):
            for number, data in each(client, session, make, tasks.items()):
                kept.write(number, data)
                bar.update()
    return kept.open().load()
