"""How strongly the score converges on a point: a p-Laplacian of the log-density, at one step.

The score flows into a memorized image from all around. With p = 2 this is the ordinary Laplacian,
which FLIPD contains; with p = 1 it is the curvature of the density's level sets, whose scale the
length of the score does not enter. A trace by few random probes is rough: compare means of several
seeds, or take more probes.
"""

import torch
import xarray as xr
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.derivatives import Prediction, diagonal, signs, vjp
from interp.detect.around import each, eps_c, lengths
from interp.detect.case import Case
from interp.detect.dimension import late


def convergence(
    case: Case,
    p: int | float = 1,
    step: int | None = None,
    probes: int = 1,
    probe_seed: int = 42,
) -> xr.DataArray:
    """Return minus the p-Laplacian at one step of the run, `(seed)`: it grows with convergence.

    Example:
        >>> convergence(Case(sd, "a photo of a goat", seeds=4), probes=16).mean("seed")

    Cost: a run, two UNet rows a seed, and derivatives of one and of one more with each probe.

    Args:
        p: 1 or more.
        step, probes, probe_seed: as in `low_dimension`.

    Source: Brokman et al., "Identifying Memorization of Diffusion Models through p-Laplace
    Analysis", SSVM 2025 (arXiv 2505.08246). They evaluate the score at perturbed points; here its
    Jacobian is taken, by random probes. Which prediction, step and p they take for a
    text-to-image model is not clear from what we have read: the conditional one, FLIPD's step and
    p = 1 are ours.

    Raises:
        InterpError: the run has no such step.
    """
    points = case.at(late(case) if step is None else step)
    signed = signs(tuple(points.latents.shape[1:]), probes, probe_seed).to(points.latents)
    found = []
    for point in each(points):
        prediction = eps_c(case.session, point)
        at = (point.latents, point.eps_c, point.alpha_bar[0])
        found.append(-p_laplacian(prediction, *at, p, signed))
    return case.by_seed("convergence", torch.cat(found))


def p_laplacian(
    prediction: Prediction,
    latents: Float[Tensor, "row c h w"],
    eps: Float[Tensor, "row c h w"],
    alpha_bar: float,
    p: int | float,
    probes: Float[Tensor, "probe c h w"],
) -> Float[Tensor, " row"]:
    """Return `div(||s||^(p-2) s)` with the score `s = -eps / sigma`, in latents.

    Example:
        >>> probes = signs(point.latents[0].shape, 8)
        >>> predict = eps_c(sd, point)
        >>> p_laplacian(predict, point.latents, point.eps_c, point.alpha_bar[0], 1, probes)

    By the product rule, `||s||^(p-2) (tr J + (p - 2) n^T J n)`, with J the Jacobian of the score
    and `n = s / ||s||`.

    Args:
        prediction: noise, as a function of latents.
        eps: its value at `latents`.
        probes: for the trace; see `derivatives.diagonal`.
    """
    sigma, length = (1 - alpha_bar) ** 0.5, lengths(eps)
    trace = reduce(diagonal(prediction, latents, probes), "row c h w -> row", "sum")
    pulled = vjp(prediction, latents, eps).float() * eps
    along = reduce(pulled, "row c h w -> row", "sum") / length**2
    return -((length / sigma) ** (p - 2)) * (trace.float() + (p - 2) * along) / sigma
