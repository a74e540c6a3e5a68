"""The length of the guidance: a memorized prompt pulls the prediction far from the unconditional.

The field's baseline: no gradient, no attention, one step is enough. Not comparable between models,
resolutions or unconditional prompts (SDXL's default one is all zeros): calibrate on controls.
"""

import xarray as xr

from interp.detect.traced import guidance, norm
from interp.errors import InterpError


def guidance_norm(trace: xr.Dataset, first: int | None = None) -> xr.DataArray:
    """Return `||eps_c - eps_u||_2` of every step, or its mean over the first steps.

    Example:
        >>> guidance_norm(sd.trace(prompts, seeds=range(4))).sel(step=1)
        >>> guidance_norm(trace, first=10)            # (prompt, seed)

    Args:
        trace: from `Session.trace`, with guidance; further axes (`patch`) are kept.
        first: average over this many steps from the start; None keeps the axis `step`.

    Source: Wen, Liu, Chen and Lyu, "Detecting, Explaining, and Mitigating Memorization in Diffusion
    Models", ICLR 2024, equation 4; their best figures average over all 50 steps and 4 seeds. The
    official code subtracts in float16 and treats what velocity models (SD 2 at 768 pixels) predict
    as noise, which is 13 times too much at the first step; here predictions are noise already. The
    score of a prompt is the mean over seeds: `.mean("seed")`.

    Raises:
        InterpError: the trace has no noise predictions, or fewer steps than are to be averaged; or
            those are steps of pure noise, as flow matching's first one is.
    """
    norms = norm(guidance(trace, "guidance_norm"))
    if first is not None and not bool((trace.alpha_bar[:first] > 0).any()):
        raise InterpError(
            f"guidance_norm over the first {first} steps was asked for.",
            "There is no image in the latents yet (flow matching starts so), and of pure noise the "
            "prediction is known, whatever the prompt.",
            "Average over more steps.",
        )
    return norms.rename("guidance_norm") if first is None else over_first(norms, first)


def over_first(scores: xr.DataArray, first: int) -> xr.DataArray:
    """The mean over the first steps.

    Example:
        >>> over_first(guidance_norm(trace), 10)
    """
    if not 1 <= first <= scores.sizes["step"]:
        raise InterpError(
            f"The mean over the first {first} steps was asked for.",
            f"The trace has {scores.sizes['step']}.",
            "Give first= a number from 1 to that, or leave it out to keep every step.",
        )
    return scores.isel(step=slice(first)).mean("step")
