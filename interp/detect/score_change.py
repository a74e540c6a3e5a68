"""How far the conditional prediction moves in one step: memorized prompts settle at once.

Needs no unconditional prediction and no gradient, only two neighbouring steps. It depends on the
step's length, so on sampler and number of steps: compare traces of one session.
"""

import xarray as xr

from interp.detect.traced import norm, variable
from interp.errors import InterpError


def score_change(trace: xr.Dataset, step: int | None = None) -> xr.DataArray:
    """Return DSM, `||eps_c(z_k, t_k) - eps_c(z_k-1, t_k-1)||_2^2`, of every step k but the first.

    Example:
        >>> score_change(sd.trace(prompts, seeds=range(4)), step=2)        # (prompt, seed)

    Args:
        trace: from `Session.trace`; the guidance is that of the trace (theirs is 7.5).
        step: 2 is the authors' DSM_12, their better one, and 1 their DSM_01; None keeps the axis.

    Source: an anonymous submission to ICML 2026 (github.com/randomnameforicml/icml-2026), metric 3.
    The only official code that turns velocity into noise, as is done here. It runs in float16,
    reads the prompt from a key that Wen et al.'s file does not have (and then scores the empty
    prompt), and appends to the results of earlier runs.

    Raises:
        InterpError: the trace has no noise predictions, or lacks that step.
    """
    eps = variable(trace, "eps_c", "score_change")
    steps = eps.sizes["step"]
    if steps < 2 or (step is not None and not 1 <= step < steps):
        raise InterpError(
            f"The change of the score from step {'k-1' if step is None else step - 1} to step "
            f"{'k' if step is None else step} was asked for.",
            f"The trace has {steps} steps, counted from 0.",
            "Trace more steps, or ask for one from 1 on.",
        )
    # xarray's own diff labels a difference by the later step.
    changes = (norm(eps.diff("step")) ** 2).rename("score_change")
    return changes if step is None else changes.isel(step=step - 1, drop=True)
