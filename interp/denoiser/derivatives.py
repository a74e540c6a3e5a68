"""Derivatives of a prediction: how it responds to a small change of the UNet's input.

A prediction is any function that maps rows to rows independently, as a UNet does, of latents or of
embeddings. Use float32 models: differences in half precision have two digits. For gradients of a
single number, use `torch.autograd.grad`.
"""

from collections.abc import Callable

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from interp.errors import InterpError

Prediction = Callable[[Tensor], Tensor]


def jvp(f: Prediction, x: Tensor, v: Tensor, difference: int | float | None = None) -> Tensor:
    """Return `J v` of every row: the change of `f` when `x` moves along `v`.

    Example:
        >>> jvp(lambda z: unet_call.predict(pipe, z, t, abar, embeds, a), latents, direction)

    Args:
        f: maps rows to rows independently.
        x, v: the point and the direction, both `[row, ...]`; the result is linear in `v`.
        difference: None differentiates exactly, in forward mode. Flash kernels have no forward
            derivative, so PyTorch's attention uses its plain kernel meanwhile. For other kernels
            without one (xFormers), pass a length: the central finite difference between points
            that far away on either side, which costs two evaluations. In units of the norm of a
            row of `x`: noise for SD 1.4 has norm 128.

    Raises:
        InterpError: an operation in `f` has no forward derivative.
    """
    v = v.to(x)
    if difference is not None:
        return _central(f, x, v, difference)
    try:
        # Forward mode needs no graph, which would otherwise be kept for the model's parameters.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(f, (x,), (v,))[1]
    except RuntimeError as cause:
        if "forward AD" not in str(cause) and "jvp" not in str(cause):
            raise
        raise InterpError(
            "An exact derivative along a direction was asked for.",
            f"An operation of this model has none: {str(cause).splitlines()[0]}",
            "Pass difference=0.1 for a finite difference, or use PyTorch's attention: "
            "pipe.unet.set_attn_processor(AttnProcessor2_0()).",
        ) from cause


def vjp(f: Prediction, x: Tensor, u: Tensor) -> Tensor:
    """Return `Jᵀ u` of every row: the gradient of `<f, u>`, with any kernel.

    Example:
        >>> vjp(lambda z: unet_call.predict(pipe, z, t, abar, embeds, a), latents, direction)
    """
    at, value = _graph(f, x)
    return torch.autograd.grad(value, at, u.to(value))[0]


def diagonal(f: Prediction, x: Tensor, probes: Tensor) -> Tensor:
    """Return Hutchinson's estimate of the diagonal of J of every row: the mean of `v * Jᵀv`.

    Example:
        >>> diagonal(f, latents, signs(latents[0].shape, 16)).sum((1, 2, 3))       # of the trace

    Unbiased for probes of independent signs, and exact where J is diagonal, or where the probes are
    the rows of a Hadamard matrix, as many as `x` has elements. Each probe costs a backward pass;
    there is one forward pass for all.

    Args:
        f: maps rows to rows of the same shape, independently.
        probes: `[probe, ...]`, the same for every row.

    Source: Hutchinson 1990; Bekas, Kokiopoulou and Saad 2007 for the diagonal.
    """
    at, value = _graph(f, x)
    found = torch.zeros_like(value)
    for probe in probes:
        along = probe.to(value).expand_as(value)
        found += along * torch.autograd.grad(value, at, along, retain_graph=True)[0]
    return found / len(probes)


def signs(shape: tuple[int, ...], count: int, seed: int = 0) -> Tensor:
    """Return `count` probes of independent signs, the same for the same seed.

    Example:
        >>> signs((4, 64, 64), 16).shape
        torch.Size([16, 4, 64, 64])

    Raises:
        InterpError: the count is not positive.
    """
    if count < 1:
        raise InterpError(
            f"{count} probes of a derivative were asked for.",
            "There must be at least one.",
            "Use 16; the error falls with the square root of their number.",
        )
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(2, (count, *shape), generator=generator) - 1


def _graph(f: Prediction, x: Tensor) -> tuple[Tensor, Tensor]:
    """A leaf with the value of `x`, and the prediction at it."""
    at = x.detach().requires_grad_()
    with torch.enable_grad():
        return at, f(at)


@torch.no_grad()
def _central(f: Prediction, x: Tensor, v: Tensor, difference: int | float) -> Tensor:
    if not 0 < difference < float("inf"):
        raise InterpError(
            f"A finite difference of length {difference} was asked for.",
            "It must be a positive number.",
            "Use 0.1, or leave it out for an exact derivative.",
        )
    length = reduce(v.float().square(), "row ... -> row", "sum").sqrt()

    def beside(values: Tensor) -> Tensor:
        return rearrange(length, "row -> row" + " 1" * (values.ndim - 1)).to(values)

    # Without a direction there is no change either.
    step = difference * v / beside(v).clamp_min(torch.finfo(v.dtype).tiny)
    change = (f(x + step) - f(x - step)) / (2 * difference)
    return change * beside(change)
