"""Everything a report shows, as one dataset: the step that needs the model.

Edited images come from a sweep, so being killed costs at most one prompt; the unedited runs are
recorded and reduced prompt by prompt, so memory does not grow with the list.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from PIL import Image
from tqdm.auto import tqdm

from interp import detect
from interp.errors import InterpError
from interp.metrics import CLIPScore, Diversity, Metric, as_batch
from interp.patch import Patch
from interp.record.recorders import mass
from interp.report.assess import assess
from interp.report.edits import edits as default_edits
from interp.report.edits import role
from interp.report.generate import generate
from interp.report.overlay import overlay
from interp.report.subject import Subject
from interp.report.where import changes
from interp.results.axes import PIXELS, POSITION
from interp.results.provenance import stamp
from interp.session import Rewrite, Session
from interp.session.settings import of_unet
from interp.sweep.cluster import each
from interp.sweep.measures import measured
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt

log = logging.getLogger(__name__)

FEWEST_STEPS = 3
"""Some detectors compare the second and third step."""
OF_EDITS = {
    "edit_image": "image",
    "edit_similarity": "copy",
    "edit_alike": "alike",
    "edit_fidelity": "clipscore",
}
"""The report's names for the variables of the sweep over edits."""


def collect(
    session: Session,
    cases: Sequence[Subject],
    *,
    store: str | os.PathLike[str],
    similarity: Metric,
    threshold: float,
    fidelity: CLIPScore | None = None,
    edits: Mapping[str, Patch | Rewrite] | None = None,
    seeds: int = 4,
    edited: int = 2,
    command: str = "",
    calibration: detect.Calibration | None = None,
    client: Any = None,
) -> xr.Dataset:
    """Generate, record and measure everything a report says about these prompts.

    Example:
        >>> data = collect(sd, cases, store="out/report/edits.zarr", similarity=sscd, threshold=0.5)
        >>> data.verdict.values
        array(['memorized', 'not memorized'])

    Args:
        session: pipeline and settings, with at least 3 steps and with guidance.
        cases: the prompts and what is known about them.
        store: the store of the sweep over edits, `*.zarr`; the same call resumes it, and a store
            that `generate` filled for other figures is reused.
        similarity: between two images, large if they are alike.
        threshold: the similarity from which one image is a copy of the other.
        fidelity: a CLIPScore, if there is one.
        edits: by name; by default `report.edits()`.
        seeds: unedited images of each prompt, on which verdicts rest.
        edited: images of each prompt under each edit.
        command: how to make the report again, which the report shows.
        calibration: sets the detectors' levels, rather than the controls among these prompts.
        client: a Dask client whose workers share the prompts.

    Returns:
        Over `prompt`, `seed`, `patch`, `edit_seed`, `step`, `layer`, `category`, `position`,
        `detector` and the axes of images; see `report/assess.py` for the conclusions, and
        `report/where.py` for the causal traces.

    Raises:
        InterpError: there are no prompts, or too few steps or seeds, or the calibration is for
            another model or other settings.
    """
    of_unet(session, "A report")
    if not cases or seeds < 2 or edited < 2 or session.steps < FEWEST_STEPS or not session.guided:
        raise InterpError(
            f"A report on {len(cases)} prompts with {seeds} and {edited} seeds, {session.steps} "
            f"steps and guidance {session.guidance} was asked for.",
            f"It needs a prompt, two seeds of each, {FEWEST_STEPS} steps, and guidance above 1.",
            "Comparing seeds needs two of them, and detectors need guidance.",
        )
    if calibration is not None:
        calibration.check(session, seeds)
    chosen = default_edits() if edits is None else dict(edits)
    grid = generate(
        session, cases, chosen, edited,
        store=store, similarity=similarity, fidelity=fidelity, client=client,
    ).load()  # fmt: skip
    names = list(grid.patch.values)
    data = observe(session, cases, seeds, similarity, client).assign_coords(
        patch=names,
        role=("patch", [role(str(name)) for name in names]),
        edit=("patch", [repr(chosen.get(str(name))) for name in names]),
        reference=grid.reference.values,
    )
    for name, swept in OF_EDITS.items():
        if swept in grid:
            data[name] = _of_edits(grid[swept])
    data = stamp(
        data,
        **session.provenance(),
        prompts=[case.text for case in cases],
        seeds=list(range(seeds)),
        edit_seeds=list(range(edited)),
        patches={name: repr(edit) for name, edit in chosen.items()},
        similarity=similarity.provenance(),
        fidelity=None if fidelity is None else fidelity.provenance(),
        threshold=threshold,
        command=command,
        calibration=None if calibration is None else asdict(calibration),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    data = assess(data, threshold, None if calibration is None else calibration.level)
    return data.assign(change=changes(session, data))


def observe(
    session: Session,
    cases: Sequence[Subject],
    seeds: int,
    similarity: Metric,
    client: Any = None,
) -> xr.Dataset:
    """The unedited prompts: images, attention and detectors' scores, as one dataset.

    Example:
        >>> observe(sd, cases, 4, sscd).score.mean("seed")     # (prompt, detector)
    """
    log.info("unedited images of %d prompts, %d seeds, recorded", len(cases), seeds)
    metrics = {"similarity": similarity, "alike": Diversity(similarity)}
    made = each(client, session, partial(unedited, seeds, metrics), enumerate(cases))
    parts = dict(tqdm(made, total=len(cases), unit="prompt", disable=None))
    # Also coordinates on which all prompts agree, as one prompt does with itself.
    return xr.concat([parts[n] for n in range(len(cases))], "prompt", coords="all").assign_coords(
        prompt=range(len(cases)),
        kind=("prompt", [case.kind for case in cases]),
        group=("prompt", [case.group for case in cases]),
        views=("prompt", [case.views for case in cases]),
    )


def unedited(seeds: int, metrics: Mapping[str, Any], session: Session, case: Subject) -> xr.Dataset:
    """One prompt as it is: its images, where it is attended to, what detectors say.

    Example:
        >>> of = {"similarity": sscd, "alike": Diversity(sscd)}
        >>> unedited(4, of, sd, cases[0])
    """
    encoded = session.encode(case.text)
    recorders = (mass, overlay(session), *detect.recorders(session.pipe))
    trace = session.trace(encoded, range(seeds), record=recorders, images=True)
    scores = detect.scores(trace).reset_coords(drop=True).isel(prompt=0)
    by_layer = trace.mass.isel(prompt=0).mean("head").mean("seed")
    by_token = trace.token_mass.isel(prompt=0).mean("head").mean(["seed", "layer", "step"])
    maps = trace.overlay.isel(prompt=0, seed=0).mean("head").mean("layer")
    images = trace.image.isel(prompt=0).transpose("seed", *PIXELS).values
    training = None if case.image is None else as_batch(case.image)
    found = measured(metrics, images[None], case.text, training)
    variables = {
        "image": (("seed", *PIXELS), images),
        "training_image": (PIXELS, _shown(case.image, images.shape[1:3])),
        "training_known": ((), training is not None),
        "similarity": ("seed", found["similarity"][1][0, :, 1]),
        "alike": ((), found["alike"][1][0]),
        "mass": (("step", "layer", "category"), by_layer.transpose(..., "category").values),
        "overlay": (("step", "category", "map_y", "map_x"), maps.values),
        "token_mass": (POSITION, by_token.values),
        "score": (("detector", "seed"), np.stack([s.values for s in scores.data_vars.values()])),
    }
    coords = {
        "seed": range(seeds),
        "step": range(trace.sizes["step"]),
        "layer": trace.layer.values,
        "category": trace.category.values,
        "detector": list(scores.data_vars),
        POSITION: range(len(encoded.ids)),
    }
    return xr.Dataset(variables, coords).assign_coords(_tokens(encoded))


def _tokens(prompt: Prompt) -> dict[str, Any]:
    return {
        "text": prompt.text,
        "truncated": prompt.truncated,
        "word": (POSITION, list(prompt.words)),
        "position_category": (POSITION, [CATEGORIES[code] for code in prompt.category.tolist()]),
        "tokens": ("category", list(prompt.counts.values())),
    }


def _shown(image: Image.Image | None, size: tuple[int, int]) -> np.ndarray:
    """The training image at the size of the generated ones; black if there is none."""
    if image is None:
        return np.zeros((*size, 3), np.uint8)
    return np.asarray(image.convert("RGB").resize(size[::-1], Image.Resampling.LANCZOS))


def _of_edits(values: xr.DataArray) -> xr.DataArray:
    """A variable of the sweep on the report's axes."""
    bare = values.reset_coords(drop=True).drop_vars("seed", errors="ignore")
    return bare.rename({"seed": "edit_seed"}) if "seed" in bare.dims else bare


def edited(data: xr.Dataset) -> xr.Dataset:
    """The sweep over edits that a report was collected from, as returned by `generate`.

    Example:
        >>> edited(data)["copy"].sel(patch="h", reference="training").mean()
    """
    names = {ours: theirs for ours, theirs in OF_EDITS.items() if ours in data}
    grid = data[list(names)].rename({**names, "edit_seed": "seed"})
    return grid.transpose("patch", "prompt", "seed", ...)
