"""Where in the network and when in the run the embeddings of memorized prompts act."""

from __future__ import annotations

import logging

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from interp.attribute import causal_trace
from interp.patch import zero
from interp.report.assess import MEMORIZED
from interp.report.edits import PLAYERS
from interp.session import Session

log = logging.getLogger(__name__)


def changes(session: Session, data: xr.Dataset) -> xr.DataArray:
    """How removing each category in a single layer at a single step changes the text's pull.

    Example:
        >>> changes(sd, data).sel(player="pad").mean("prompt")     # (step, layer)

    The pull is `|eps_c - eps_u|`, which detectors use; the trajectory is that of the first seed's
    unedited image (a direct effect, see `attribute.causal_trace`).

    Args:
        session: the session that collected the data.
        data: after `assess`; only prompts with the verdict memorized are traced.

    Returns:
        The pull with the removal minus that without, over (prompt, player, step, layer). NaN for
        prompts that are not memorized, and for categories that a prompt lacks.
    """
    shape = {"prompt": data.prompt, "player": list(PLAYERS), "step": data.step, "layer": data.layer}
    sizes = [len(axis) for axis in shape.values()]
    found = xr.DataArray(np.full(sizes, np.nan), shape, tuple(shape))
    memorized = np.flatnonzero(data.verdict.values == MEMORIZED)
    if memorized.size:
        log.info("where and when %d memorized prompts act", len(memorized))
    for prompt in tqdm(memorized, unit="prompt", disable=None):
        encoded = session.encode(str(data.text.values[prompt]))
        patches = {name: zero(name) for name in PLAYERS if encoded.counts[name]}
        trace = causal_trace(session, encoded, patches, seeds=[int(data.seed[0])])
        change = (trace["value"] - trace.clean).isel(prompt=0, seed=0)
        for name in patches:
            cells = change.sel(patch=name).transpose("step", "layer")
            found.loc[{"prompt": data.prompt[prompt], "player": name}] = cells.values
    return found
