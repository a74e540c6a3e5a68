"""How far the latent moves at each step, and whether controls ever move so far, or so little.

Reads a run alone and costs nothing beside it, so it can watch a generation as it happens. It needs
controls of the same session: what is usual depends on sampler, number of steps and guidance.
"""

import numpy as np
import xarray as xr

from interp.detect.case import Case
from interp.detect.traced import norm, variable
from interp.errors import InterpError


def update_norm(trace: xr.Dataset) -> xr.DataArray:
    """Return `||z_(k+1) - z_k||_2` of every step k.

    Example:
        >>> update_norm(sd.trace(prompts, seeds=range(4), half=False))      # (prompt, seed, step)

    Between what the UNet was given at a step and at the next; the last one's is to the final
    latents. Samplers that scale the UNet's input (Euler's, Heun's) have it scaled here too, so that
    all of them start from noise of variance 1.

    Source: Huang et al., "Broken Memories", KDD 2026 (arXiv 2605.22050); there is no code.

    Raises:
        InterpError: the trace has no latents.
    """
    latents = variable(trace, "latents", "update_norm")
    final = variable(trace, "final_latents", "update_norm")
    last = final.expand_dims(step=[latents.sizes["step"]])
    path = xr.concat([latents.reset_coords(drop=True), last.reset_coords(drop=True)], "step")
    moved = path.isel(step=slice(1, None)).assign_coords(step=latents.step.values)
    return norm(moved - path.isel(step=slice(-1))).rename("update_norm")


def instability(case: Case, quantile: float = 0.005) -> xr.DataArray:
    """Return the share of a run's steps whose update leaves the controls' band, `(seed)`.

    Example:
        >>> controls = sd.trace(captions, seeds=4, half=False)
        >>> instability(Case(sd, prompt, seeds=4, controls=controls)).mean("seed")

    The band of a step lies between two quantiles of the controls' `update_norm` at that step; on
    either side of it counts.

    Cost: a run; no further UNet row.

    Args:
        quantile: the share of controls below the band, and that above it.

    Source: Huang et al. (see `update_norm`). What is a stability region in their paper is not clear
    from what we have read: a band between quantiles is ours, and so is the share of steps, where
    they stop at the first. A quantile of 0.5 % wants some hundred controls; with fewer the band is
    about their range.

    Raises:
        InterpError: the case has no controls, they have another number of steps, or the quantile is
            not from 0 to below a half.
    """
    if case.controls is None or not 0 <= quantile < 0.5:
        raise InterpError(
            f"Steps outside the band between the controls' quantiles {quantile} and "
            f"{1 - quantile} were asked for.",
            f"The case has {'no' if case.controls is None else 'its'} controls, and a quantile is "
            "at least 0 and below 0.5.",
            "Trace some: Case(sd, prompt, controls=sd.trace(captions, seeds=4, half=False)).",
        )
    usual, own = update_norm(case.controls), update_norm(case.trace).isel(prompt=0, drop=True)
    if usual.sizes["step"] != own.sizes["step"]:
        raise InterpError(
            f"A run of {own.sizes['step']} steps was to be compared with controls.",
            f"The controls have {usual.sizes['step']} steps.",
            "Trace them with the same session.",
        )
    rest = [dim for dim in usual.dims if dim != "step"]
    low, high = (usual.quantile(q, rest).drop_vars("quantile") for q in (quantile, 1 - quantile))
    outside = (own < low) | (own > high)
    return outside.mean("step").astype(np.float64).rename("instability")
