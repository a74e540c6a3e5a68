"""The edited images for ablations and reports: one sweep, and one store for both."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from interp.metrics import CLIPScore, Diversity, Metric
from interp.patch import Patch
from interp.report.subject import Subject
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Rewrite, Session
from interp.sweep import sweep

log = logging.getLogger(__name__)


def generate(
    session: Session,
    cases: Sequence[Subject],
    edits: Mapping[str, Patch | Rewrite],
    seeds: Seeds,
    *,
    store: str | os.PathLike[str],
    similarity: Metric,
    fidelity: CLIPScore | None = None,
    more: Mapping[str, Any] | None = None,
    client: Any = None,
) -> xr.Dataset:
    """Return the images of every prompt under every edit, and their similarities.

    Example:
        >>> grid = generate(sd, cases, edits(), 2, store="out/edits.zarr", similarity=sscd)
        >>> grid["copy"].sel(patch="h", reference="training").mean()

    Args:
        session: pipeline and settings.
        cases: the prompts and what is known about them.
        edits: by name; the unedited image comes first.
        seeds: for each prompt and edit, how many, or which.
        store: the store of the sweep, `*.zarr`; the same call resumes it.
        similarity: between two images, large if they are alike.
        fidelity: a CLIPScore, if there is one.
        more: other metrics, by variable name.
        client: a Dask client whose workers share the prompts.

    Returns:
        The sweep: `image`, `copy` (similarity, by reference), `alike` (likeness of seeds, if there
        are two) and `clipscore` (if there is a CLIP model), with `kind`, `group` and `views` of
        every prompt.
    """
    seeds = chosen_seeds(seeds)
    log.info("images of %d prompts under %d edits, %d seeds", len(cases), len(edits), len(seeds))
    metrics: dict[str, Any] = {"copy": similarity, **(more or {})}
    if fidelity is not None:
        metrics["clipscore"] = fidelity
    if len(seeds) > 1:
        metrics["alike"] = Diversity(similarity)
    grid = sweep(
        session,
        [case.text for case in cases],
        edits,
        seeds,
        store=store,
        metrics=metrics,
        references=[case.image for case in cases],
        labels={
            "kind": [case.kind for case in cases],
            "group": [case.group for case in cases],
            "views": [case.views for case in cases],
        },
        images=True,
        client=client,
    )
    for name in set(grid.data_vars) - {"image"}:
        grid[name].load()  # used many times, and small
    return grid
