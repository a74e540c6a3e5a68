"""The main job: prompts x seeds x patches, measured, in a Zarr store that survives being killed.

`Session.run` holds one experiment in memory. A sweep is the same experiment over hundreds of
prompts: finished ones are on disk, and the same call resumes it. Not for a few images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import dask
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp.errors import InterpError
from interp.metrics import Images, as_batch
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Edits, Session
from interp.sweep import cluster, measures, plan
from interp.sweep.one_prompt import cell, sessions, unconditional
from interp.sweep.plan import Plan
from interp.sweep.store import Store
from interp.text.files import PromptFile
from interp.text.prompt import Prompt


def sweep(
    session: Session,
    prompts: PromptFile | Sequence[str | Prompt],
    patches: Edits = None,
    seeds: Seeds = 10,
    *,
    store: str | os.PathLike[str],
    metrics: Mapping[str, Any] | None = None,
    references: Sequence[Images | None] | None = None,
    labels: Mapping[str, Sequence[Any]] | pd.DataFrame | None = None,
    record: Any = None,
    guidance: Sequence[int | float] | None = None,
    images: bool | None = None,
    client: Any = None,
) -> xr.Dataset:
    """Run every prompt with every seed and patch, and keep the results in a Zarr store.

    Example:
        >>> sscd = ip.metrics.SSCD("sscd_disc_mixup.torchscript.pt")
        >>> grid = ip.sweep(
        ...     sd, prompts, ip.paper.interventions(), seeds=10, store="runs/ablation.zarr",
        ...     metrics={"sscd": sscd, "diversity": ip.metrics.Diversity(sscd)},
        ...     references=training_images, record=ip.mass,
        ... )
        >>> grid.sscd.sel(reference="training").mean(["prompt", "seed"])
        >>> xr.open_zarr("runs/ablation.zarr")          # the same, at any time

    If killed, the same call resumes: at most the current prompt is generated again. Each prompt is
    run like `session.run` with all seeds and patches together, so its baseline is generated once,
    and the images of one prompt must fit into memory.

    Args:
        session: runs the model.
        prompts: texts, encoded prompts, or a file from `read_prompts`, whose groups become the
            coordinate `group`.
        patches: patches and mitigations as for `session.run`. The baseline is always included, the
            first on the axis `patch`, called "none".
        seeds: how many, from 0 on, or which.
        store: the folder, `*.zarr`; one sweep per store.
        metrics: by variable name. Metrics of two images give `(patch, prompt, seed, reference)`;
            the references are the baseline of the same prompt and seed, and the training image.
            `CLIPScore` gives `(patch, prompt, seed)`, always against the original prompt;
            `Diversity` gives `(patch, prompt)`.
        references: each prompt's training image, or None if unknown (NaN).
        labels: columns that become coordinates on `prompt`: duplication, memorized or control.
        record: a recorder such as `ip.mass`, or several.
        guidance: several scales, which add an axis `guidance`; by default the session's own.
        images: keep the images; by default only if nothing is measured or recorded.
        client: a `dask.distributed.Client`. Workers load the model by name, so the session must
            come from `interp.load`; only this process writes.

    Returns:
        The store, read lazily. `text`, `done` and the labels are coordinates on `prompt`; `applies`
        says where a patch had something to edit (a prompt of 77 tokens has no pads). Elsewhere
        variables are NaN and images 0.

    Raises:
        InterpError: the request is impossible, or the store was begun with other settings (it says
            which), is damaged, or is being written by another process.
    """
    given, columns = _prompts(prompts, labels)
    recorders = record if isinstance(record, (list, tuple)) else [record]
    asked = Plan(
        seeds=chosen_seeds(seeds),
        edits=plan.named(patches),
        guidance=None if guidance is None else tuple(float(scale) for scale in guidance),
        metrics=dict(metrics or {}),
        recorders=tuple(recorder for recorder in recorders if recorder is not None),
        images=images if images is not None else not metrics and record is None,
    )
    plan.distinct(asked, columns)
    if not (asked.images or asked.metrics or asked.recorders):
        raise InterpError(
            "A sweep that keeps nothing was asked for.",
            "It can keep images, metrics and recordings.",
            "Pass images=True, metrics={...} or record=ip.mass.",
        )
    training = _references(references, len(given))
    sizes = {tuple(image.shape): image for image in training if image is not None}
    measures.rehearse(asked.metrics, len(asked.seeds), (session.height, session.width), sizes)
    encoded = [session.encode(p) if isinstance(p, str) else p for p in given]
    plan.rehearse(asked, encoded, unconditional(sessions(session, asked)))
    kept = Store(store, plan.facts(session, asked, encoded, given, training, columns))
    with kept.alone():
        kept.check()
        missing = kept.missing()
        tasks = {place: (encoded[place], training[place]) for place in missing}
        done = len(encoded) - len(missing)
        bar = tqdm(total=len(encoded), initial=done, unit="prompt", disable=None)
        # Otherwise writing would queue on the cluster's workers, behind all prompts.
        with bar, dask.config.set(scheduler="threads"):
            for place, data in cluster.each(client, session, partial(_cell, asked), tasks.items()):
                kept.write(place, data)
                bar.update()
    return kept.open()


def _cell(
    asked: Plan, session: Session, task: tuple[Prompt, Float[Tensor, "1 3 h w"] | None]
) -> xr.Dataset:
    return cell(sessions(session, asked), asked, *task)


def _prompts(
    prompts: PromptFile | Sequence[str | Prompt],
    labels: Mapping[str, Sequence[Any]] | pd.DataFrame | None,
) -> tuple[list[str | Prompt], dict[str, list[Any]]]:
    """The prompts, and the columns that describe them as plain lists."""
    columns: dict[str, Any] = {}
    if labels is not None:
        columns = {str(name): values for name, values in labels.items()}
    given: list[str | Prompt]
    if isinstance(prompts, PromptFile):
        columns = {"group": prompts.groups, **columns}
        given = [*prompts.texts]
    else:
        given = [prompts] if isinstance(prompts, (str, Prompt)) else list(prompts)
    if not given:
        raise InterpError(
            "A sweep over 0 prompts was asked for.",
            "There must be at least one.",
            "Pass texts, encoded prompts or read_prompts(path).",
        )
    plain: dict[str, list[Any]] = {}
    for name, values in columns.items():
        array = np.asarray(list(values))
        if array.shape != (len(given),) or array.dtype.kind not in "biufU":
            raise InterpError(
                f"The label {name!r} was passed for {len(given)} prompts.",
                f"It is an array of shape {array.shape} and type {array.dtype}.",
                "Pass one number or one text per prompt, not None.",
            )
        plain[name] = array.tolist()
    return given, plain


def _references(
    references: Sequence[Images | None] | None, count: int
) -> list[Float[Tensor, "1 3 h w"] | None]:
    images = [None] * count if references is None else list(references)
    batches = [None if image is None else as_batch(image).cpu() for image in images]
    if len(batches) != count or any(batch is not None and len(batch) != 1 for batch in batches):
        raise InterpError(
            f"{len(batches)} training images were passed for {count} prompts.",
            "There must be one image, or None, per prompt.",
            "Pass references=[image, None, ...] in the order of the prompts.",
        )
    return batches
