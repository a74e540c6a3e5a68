"""How many ways there are to move on from an image: few around memorized ones.

FLIPD estimates the local intrinsic dimension of what the model has learned, from one step of a run.
It is small for plain images as well, whether or not they are memorized.
"""

import torch
import xarray as xr
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.derivatives import Prediction, diagonal, signs
from interp.detect.around import each, guided, lengths
from interp.detect.case import Case

LATE = 0.8
"""Of a run's steps: the authors' step 40 of 50."""


def low_dimension(
    case: Case, step: int | None = None, probes: int = 1, probe_seed: int = 42
) -> xr.DataArray:
    """Return minus FLIPD at one step of the run, `(seed)`: it grows as the dimension falls.

    Example:
        >>> low_dimension(Case(sd, "a photo of a goat", seeds=4), probes=16).mean("seed")

    Of the guided prediction, `eps_u + w (eps_c - eps_u)`, at the latents of the run.

    Cost: a run, two UNet rows a seed, and derivatives of two with each probe.

    Args:
        step: None is 0.8 of the way, the authors' step 40 of 50.
        probes: random signs for the trace of the Jacobian. The authors' code takes one, as by
            default here; its error is as large as the Jacobian's norm, and falls with the root of
            their number.
        probe_seed: of the signs, which are the same for all images.

    Source: see `flipd`; and Ross et al., "A Geometric Framework for Understanding Memorization in
    Generative Models", ICLR 2025 (arXiv 2411.00113), for memorization. Their code for SD takes one
    normal probe, leaves the unconditional prediction out of the Jacobian, and omits the constant D.

    Raises:
        InterpError: the run has no such step.
    """
    points = case.at(late(case) if step is None else step)
    signed = signs(tuple(points.latents.shape[1:]), probes, probe_seed).to(points.latents)
    weight, found = case.session.guidance, []
    for point in each(points):
        eps = weight * point.eps_c + (1 - weight) * point.eps_u
        prediction = guided(case.session, point)
        found.append(-flipd(prediction, point.latents, eps, point.alpha_bar[0], signed))
    return case.by_seed("low_dimension", torch.cat(found))


def flipd(
    prediction: Prediction,
    latents: Float[Tensor, "row c h w"],
    eps: Float[Tensor, "row c h w"],
    alpha_bar: float,
    probes: Float[Tensor, "probe c h w"],
) -> Float[Tensor, " row"]:
    """Return `D + sigma^2 (tr ds/dz + ||s||^2)` with `s = -eps / sigma`: a local dimension.

    Example:
        >>> predict, probes = guided(sd, point), signs(point.latents[0].shape, 16)
        >>> flipd(predict, point.latents, predict(point.latents), point.alpha_bar[0], probes)

    That is `D - sigma tr(d eps / dz) + ||eps||^2`, with `sigma^2 = 1 - abar` and D the number of
    elements. For data on a d-dimensional plane it is d in the limit of no noise.

    Args:
        prediction: noise, as a function of latents.
        eps: its value at `latents`.
        probes: for the trace; see `derivatives.diagonal`.

    Source: Kamkari et al., "A Geometric View of Data Complexity", NeurIPS 2024 (arXiv 2406.03537),
    where `z` is `sqrt(abar)` times an image, with no noise added; on a run it has some.
    """
    trace = reduce(diagonal(prediction, latents, probes), "row c h w -> row", "sum")
    return latents[0].numel() - (1 - alpha_bar) ** 0.5 * trace.float() + lengths(eps) ** 2


def late(case: Case) -> int:
    """The step that is 0.8 of the way.

    Example:
        >>> late(case)          # 40, of 50 steps
    """
    return int(LATE * case.trace.sizes["step"])
