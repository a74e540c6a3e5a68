"""How widely attention is spread: on ordinary prompts it ends up on the start token.

Reads the attention of the conditional rows only, averaged over queries. It depends on the prompt's
length (many pads share what is left), so compare prompts with controls of similar length.
"""

import numpy as np
import xarray as xr
from scipy.special import entr

from interp.detect.traced import variable
from interp.errors import InterpError
from interp.results.axes import POSITION

EARLY = "down.1"
"""Where E looks: SD 1 and 2's fourth layer, the last of the down block at half resolution."""


def attention_entropy(trace: xr.Dataset) -> xr.DataArray:
    """Return `E_t = -sum_k a_k log a_k` of the attention averaged over queries, heads and layers.

    Example:
        >>> attention_entropy(sd.trace(prompts, record=ip.token_mass))        # (prompt, seed, step)

    In nats, over all 77 positions. This is the entropy of the average, as Ren et al. take it; the
    recorder `entropy` averages the entropies of single queries.

    Raises:
        InterpError: `token_mass` was not recorded.
    """
    return _nats(_attention(trace, "attention_entropy")).sum(POSITION).rename("attention_entropy")


def early_entropy(trace: xr.Dataset, layer: str | None = None) -> xr.DataArray:
    """Return Ren et al.'s E: the entropy at the first step in one layer.

    Example:
        >>> early_entropy(sd.trace(prompts, seeds=range(4), record=ip.token_mass))

    Args:
        trace: with `token_mass` recorded.
        layer: None is the last cross-attention layer of `down.1`: their layer 3 (`down.1.1`) in
            SD 1 and 2, and the layer of the same resolution elsewhere.

    Source: Ren et al., "Unveiling and Mitigating Memorization in Text-to-Image Diffusion Models
    through Cross Attention", ECCV 2024, section 4.2. The official code takes the logarithm of
    probabilities that underflow to 0 in float16 (NaN), and has one image per call.

    Raises:
        InterpError: `token_mass` was not recorded, or not in that layer.
    """
    mass = _mass(trace, "early_entropy")
    names = [str(name) for name in mass.layer.values]
    wanted = [name for name in names if name == layer or name.startswith(f"{layer or EARLY}.")]
    if not wanted:
        raise InterpError(
            f"The attention entropy in layer {layer or EARLY} was asked for.",
            f"Recorded were {', '.join(names)}.",
            "Record that layer too, or name one of these: early_entropy(trace, layer=...).",
        )
    attention = mass.sel(layer=wanted[-1]).isel(step=0).mean("head")
    return _nats(attention).sum(POSITION).drop_vars(_of_layer(mass)).rename("early_entropy")


def late_entropy(trace: xr.Dataset, last: int | None = None) -> xr.DataArray:
    """Return Ren et al.'s D: the entropy of the last steps, and what eot and pads gained of it.

    Example:
        >>> late_entropy(sd.trace(prompts, seeds=range(4), record=ip.token_mass))

    `D = mean_last E_t + (mean_last P_t - P_0)`, where `P_t` sums the same terms over eot and pads
    only; attention is averaged over all recorded heads and layers (record all of them).

    Args:
        trace: with `token_mass` recorded.
        last: how many steps count as last; None takes a fifth, as the authors do (10 of 50).

    Source: Ren et al., ECCV 2024, section 4.2. The official code wants at least 41 steps, cannot
    stack layers of different numbers of heads (SD 2), and ends in NaN where float16 underflows.
    Here each layer's heads are averaged first, so that every layer counts the same.

    Raises:
        InterpError: `token_mass` was not recorded, or fewer than `last` steps follow the first.
    """
    nats = _nats(_attention(trace, "late_entropy"))
    steps = nats.sizes["step"]
    last = max(1, round(steps / 5)) if last is None else last
    if not 1 <= last < steps:
        raise InterpError(
            f"The entropy of the last {last} steps against the first was asked for.",
            f"The trace has {steps} steps.",
            "Trace more steps, or give last= a smaller number.",
        )
    whole = nats.sum(POSITION)
    behind = nats.where(trace.position_category.isin(["eot", "pad"]), 0).sum(POSITION)
    late = {"step": slice(-last, None)}
    gained = behind.isel(late).mean("step") - behind.isel(step=0, drop=True)
    return (whole.isel(late).mean("step") + gained).rename("late_entropy")


def _attention(trace: xr.Dataset, detector: str) -> xr.DataArray:
    """Attention per position, averaged over the heads of each layer and then over layers."""
    return _mass(trace, detector).mean("head").mean("layer")


def _mass(trace: xr.Dataset, detector: str) -> xr.DataArray:
    """Attention per position, of an image that attends to the text alone."""
    mass = variable(trace, "token_mass", detector)
    if "image" in trace.category and float(mass.sum(POSITION).min()) < 0.99:
        raise InterpError(
            f"{detector} was asked for.",
            "In joint attention the image attends to itself too, so that its attention to the text "
            "is no distribution.",
            "Use detectors of noise predictions: detect.defined(pipe) lists those that there are.",
        )
    return mass


def _nats(attention: xr.DataArray) -> xr.DataArray:
    # In double precision, and 0 for 0: a sum of 77 small terms.
    return xr.apply_ufunc(entr, attention.astype(np.float64))


def _of_layer(mass: xr.DataArray) -> list[str]:
    """The coordinates of layers and steps, which a score of one layer and step drops."""
    return [str(n) for n, c in mass.coords.items() if {"layer", "step"} & set(c.dims)]
