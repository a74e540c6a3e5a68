"""Guidance weighted by the last step's attention to eot, so that only the memorized region counts.

At the end of sampling the end-of-text token attends to what was memorized, so template copies (a
memorized background behind a free foreground) are not averaged away. Needs the whole run.
"""

import torch
import xarray as xr
from einops import rearrange
from torch.nn import functional

from interp.detect.guidance import over_first
from interp.detect.traced import guidance, norm, variable
from interp.errors import InterpError
from interp.results.axes import LATENT, SPACE


def bright_ending(trace: xr.Dataset, first: int | None = None) -> xr.DataArray:
    """Return `||(eps_c - eps_u) * A||_2 / mean(A)` of every step, or its mean over the first steps.

    Example:
        >>> trace = sd.trace(prompts, record=ip.maps(layers="down.0"))
        >>> bright_ending(trace).mean("step")           # the authors' LD, (prompt, seed)

    `A` is the attention of the last step to eot, averaged over heads and over the layers of the
    finest recorded down block (both `down.0` layers in SD 1 and 2), resampled bilinearly where that
    is coarser than the latents (SDXL).

    Args:
        trace: from `Session.trace`, with guidance and with maps of categories.
        first: average over this many steps from the start; None keeps the axis `step`.

    Source: Chen, Liu, Shah and Xu, "Exploring Local Memorization in Diffusion Models via Bright
    Ending Attention", ICLR 2025, section 4. The official code generates twice, keeps maps of all 77
    positions of every prompt in memory, and takes step 49 for the last, so it needs 50 steps.

    Raises:
        InterpError: the trace lacks noise predictions, or maps by category of a down block.
    """
    signal = guidance(trace, "bright_ending")
    attention = ending(trace)
    sizes = {name: signal.sizes[name] for name in LATENT[1:]}
    mask = _resampled(attention, sizes)
    scores = norm(signal * mask) / mask.mean(LATENT[1:])
    return scores.rename("bright_ending") if first is None else over_first(scores, first)


def ending(trace: xr.Dataset) -> xr.DataArray:
    """Return the map itself: where the last step attends to eot, `(prompt, seed, y, x)`.

    Example:
        >>> ending(trace).isel(prompt=0, seed=0).plot()
    """
    maps = variable(trace, "maps", "bright_ending")
    # Layers where only other variables were recorded are NaN throughout.
    known = maps.notnull().any([dim for dim in maps.dims if dim != "layer"])
    down = known & (maps.block == "down")
    if "category" not in maps.dims or not bool(down.any()):
        by = "category" if "category" in maps.dims else "position"
        names = ", ".join(str(name) for name in maps.layer.values[known.values])
        raise InterpError(
            "The last step's attention to eot in a down block was asked for.",
            f"Maps were kept by {by}, of {names}.",
            "Record maps(layers='down.0'), or the first down block that has cross-attention.",
        )
    pixels = maps.height * maps.width
    finest = (down & (pixels == pixels.where(down).max())).values.nonzero()[0]
    last = maps.sel(category="eot", drop=True).isel(step=-1, drop=True).isel(layer=finest)
    return last.mean("head").mean("layer").rename("ending")


def _resampled(attention: xr.DataArray, sizes: dict[str, int]) -> xr.DataArray:
    """The map at the latents' size, on the latents' axes."""

    def bilinear(values):  # type: ignore[no-untyped-def]
        lead = values.shape[:-2]
        flat = torch.from_numpy(values.reshape(-1, 1, *values.shape[-2:]).copy())
        grown = functional.interpolate(flat, tuple(sizes.values()), mode="bilinear")
        return rearrange(grown, "n 1 y x -> n y x").numpy().reshape(*lead, *sizes.values())

    if tuple(attention.sizes[name] for name in SPACE) == tuple(sizes.values()):
        return attention.rename(dict(zip(SPACE, sizes, strict=True)))
    return xr.apply_ufunc(
        bilinear, attention, input_core_dims=[list(SPACE)], output_core_dims=[list(sizes)]
    )
