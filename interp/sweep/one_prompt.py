"""One prompt's share of a sweep: all its images, measured, as one dataset with every axis.

This is the unit of work, of writing, and of what a kill can lose. Everything that needs a prompt's
baseline is here, so it is generated once, and nothing depends on other prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.results.axes import PIXELS
from interp.session import Session
from interp.sweep.measures import REFERENCES, measured
from interp.sweep.plan import Plan
from interp.text.prompt import Prompt

AXES = ("guidance", "patch", "prompt", "seed")
#: Coordinates that describe a prompt, and differ by patch if one rewrites it.
OF_TEXT = ("tokens", "word", "position_category")


def sessions(session: Session, plan: Plan) -> list[Session]:
    """One session for each guidance scale of the plan."""
    if plan.guidance is None:
        return [session]
    return [session.but(guidance=scale) for scale in plan.guidance]


def unconditional(runs: Sequence[Session]) -> Prompt | None:
    """The prompt of the unconditional rows, if every run has such rows."""
    return runs[0].unconditional if all(run.guided for run in runs) else None


def cell(
    runs: Sequence[Session],
    plan: Plan,
    prompt: Prompt,
    reference: Float[Tensor, "1 3 h w"] | None = None,
) -> xr.Dataset:
    """Generate and measure one prompt's images.

    Example:
        >>> cell(sessions(sd, plan), plan, sd.encode("a photo of a goat"))

    Args:
        runs: one session per guidance scale.
        plan: what to do.
        prompt: the prompt.
        reference: its training image.

    Returns:
        Variables over those of (guidance, patch, prompt, seed, ...) that they have, `prompt` with
        length 1. Where a patch does not apply, values are NaN and images 0.
    """
    names = plan.applying(prompt, unconditional(runs))
    parts = [_at_one_scale(run, plan, names, prompt, reference) for run in runs]
    coords = xr.merge([part.coords.to_dataset() for part in parts], compat="override")
    if plan.guidance is None:
        data = parts[0]
    else:
        # Recordings of unconditional rows are missing at scales without guidance.
        bare = [part.reset_coords(drop=True) for part in parts]
        scales = pd.Index(plan.guidance, name="guidance")
        data = xr.concat(bare, scales, data_vars="all", join="outer").assign_coords(coords.coords)
    if plan.rewrites:
        for name in set(OF_TEXT) & set(data.coords):
            data = data.assign_coords({name: data[name].broadcast_like(data.patch)})
    data = data.assign_coords(applies=(("patch", "prompt"), np.ones((len(names), 1), dtype=bool)))
    empty = {"i": 0, "u": 0, "b": False, "U": "", "T": ""}
    fill = {name: empty.get(v.dtype.kind, np.nan) for name, v in data.variables.items()}
    return data.reindex(patch=list(plan.edits), fill_value=fill).transpose(
        *AXES, ..., missing_dims="ignore"
    )


def _at_one_scale(
    run: Session,
    plan: Plan,
    names: Sequence[str],
    prompt: Prompt,
    reference: Float[Tensor, "1 3 h w"] | None,
) -> xr.Dataset:
    seen = plan.images or bool(plan.metrics)
    edits = {name: plan.edits[name] for name in names}
    data = run.run(prompt, plan.seeds, edits, plan.recorders or None, images=seen)
    if plan.metrics:
        images = data.image.isel(prompt=0).transpose("patch", "seed", *PIXELS).values
        for name, (dims, values) in measured(plan.metrics, images, prompt.text, reference).items():
            data[name] = xr.Variable(dims, values).expand_dims("prompt")
            if "reference" in dims:
                data = data.assign_coords(reference=list(REFERENCES))
    return data if plan.images else data.drop_vars("image", errors="ignore")
