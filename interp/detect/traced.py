"""What detectors take from a trace, and what to do if it was not recorded.

Differences are taken in float32 whatever the trace's dtype: near 128, numbers are 0.06 apart in
float16 and 1 apart in bfloat16, in which most official code subtracts.
"""

import numpy as np
import xarray as xr

from interp.errors import InterpError
from interp.results.axes import LATENT

TRACE = "Trace, rather than run: sd.trace(prompts, seeds=range(4))."
HOW = {
    "eps_c": TRACE,
    "latents": TRACE,
    "final_latents": TRACE,
    "eps_u": "Trace with guidance above 1, FLUX with true_cfg_scale= above 1: without it there are "
    "no unconditional rows.",
    "token_mass": "Record it: sd.trace(prompts, record=ip.token_mass).",
    "maps": "Record it: sd.trace(prompts, record=ip.maps(layers='down.0')).",
}


def variable(trace: xr.Dataset, name: str, detector: str) -> xr.DataArray:
    """A variable of the trace in float32, its steps numbered.

    Example:
        >>> variable(trace, "eps_c", "score_change")

    Raises:
        InterpError: the trace lacks the variable; the message says how to record it.
    """
    if name not in trace:
        kept = ", ".join(str(known) for known in trace.data_vars) or "nothing"
        raise InterpError(
            f"{detector} was asked for, which needs {name!r}.", f"The trace has {kept}.", HOW[name]
        )
    found = trace[name].astype(np.float32)
    if "step" in found.dims and "step" not in found.coords:
        found = found.assign_coords(step=range(found.sizes["step"]))
    return found


def guidance(trace: xr.Dataset, detector: str) -> xr.DataArray:
    """What the prompt adds to the noise prediction: `eps_c - eps_u`.

    Example:
        >>> guidance(trace, "guidance_norm")     # (prompt, seed, step, channel, latent_y, latent_x)
    """
    return variable(trace, "eps_c", detector) - variable(trace, "eps_u", detector)


def norm(values: xr.DataArray) -> xr.DataArray:
    """The Euclidean norm of each image's latent, over channels and pixels.

    Example:
        >>> norm(guidance(trace, "guidance_norm"))      # (prompt, seed, step)
    """
    return (values**2).sum(LATENT) ** 0.5
