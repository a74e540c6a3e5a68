"""Where guidance is sharp: a map of the memorized region at the end of a run, and its cheap proxy.

For prompts that memorize a part of the image (a frame, a template behind a free foreground). Maps
are of the latent's size. As a detector, a map's mean is our choice: its authors score maps against
known masks.
"""

import torch
import xarray as xr
from einops import reduce

from interp.denoiser.derivatives import diagonal, signs
from interp.detect.around import each, guidance
from interp.detect.case import Case
from interp.detect.traced import guidance as traced_guidance
from interp.results.axes import LATENT

PROBES = 16


def curvature_map(
    case: Case, step: int = -1, probes: int = PROBES, probe_seed: int = 42
) -> xr.DataArray:
    """Return `max(0, sum over channels of diag d(eps_c - eps_u)/dz)`, `(seed, latent_y, latent_x)`.

    Example:
        >>> curvature_map(Case(sd, prompt, seeds=4)).isel(seed=0).plot()

    The diagonal of the Jacobian of minus the score's difference, but for a factor sigma: positive
    where the prompt makes the density more peaked. Estimated with random signs, see
    `derivatives.diagonal`.

    Cost: a run, two UNet rows a seed, and derivatives of two with each probe.

    Args:
        step: of the run; the last in the authors' code.
        probes: 16 in the authors' code.
        probe_seed: of the signs, which are the same for all images.

    Source: Kim and Lee, ICML 2026 (arXiv 2605.26756). The official code differentiates in float16,
    and scores maps after scaling by the extremes of the whole test set, with the best of 101
    thresholds on it; an empty map of nothing counts as a full overlap.

    Raises:
        InterpError: the run has no such step.
    """
    points = case.at(step)
    signed = signs(tuple(points.latents.shape[1:]), probes, probe_seed).to(points.latents)
    found = [
        diagonal(guidance(case.session, point), point.latents, signed) for point in each(points)
    ]
    summed = reduce(torch.cat(found).float(), "seed c y x -> seed y x", "sum").clamp_min(0)
    return xr.DataArray(
        summed.cpu().numpy(),
        {"seed": list(case.seeds)},
        ("seed", *LATENT[1:]),
        name="curvature_map",
    )


def curvature(
    case: Case, step: int = -1, probes: int = PROBES, probe_seed: int = 42
) -> xr.DataArray:
    """Return the mean of `curvature_map`, `(seed)`.

    Example:
        >>> curvature(Case(sd, prompt, seeds=4)).mean("seed")
    """
    return curvature_map(case, step, probes, probe_seed).mean(LATENT[1:]).rename("curvature")


def guidance_map(trace: xr.Dataset, step: int = -1) -> xr.DataArray:
    """Return `sum over channels of (eps_c - eps_u)^2`: the same region, without a derivative.

    Example:
        >>> guidance_map(sd.trace(prompts, seeds=4))        # (prompt, seed, latent_y, latent_x)

    Source: the proxy of Kim and Lee (see `curvature_map`), at the last of 50 steps in their code.

    Raises:
        InterpError: the trace has no noise predictions.
    """
    delta = traced_guidance(trace, "guidance_map").isel(step=step, drop=True)
    return (delta**2).sum(LATENT[0]).rename("guidance_map")
