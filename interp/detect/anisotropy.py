"""How long guidance is on pure noise, and whether it points along the unconditional prediction.

Nothing is generated: the same noise is shown to the UNet twice, once called noise and once called
nearly clean. Its two terms have different scales, so for a model that the authors did not weigh
them for, standardise each on controls instead.
"""

import copy

import xarray as xr
from einops import reduce
from torch.nn import functional

from interp.detect.around import lengths
from interp.detect.case import Case
from interp.errors import InterpError


def anisotropy(
    case: Case, weights: tuple[float, float] = (1.0, 2.0), step: int = -3
) -> xr.DataArray:
    """Return `a ||eps_c - eps_u||(x_T, first) + b cos(eps_u, eps_c - eps_u)(x_T, late)`, `(seed)`.

    Example:
        >>> anisotropy(Case(sd, "a photo of a goat", seeds=4)).mean("seed")
        >>> length, cosine = anisotropy(case, (1, 0)), alignment(case)

    Cost: four UNet rows a seed.

    Args:
        weights: (a, b): (1, 2) for SD 1, (1, 0.1) for SD 2 and (2, 1) for Realistic Vision in the
            authors' code, chosen on the prompts that it was evaluated on.
        step: of the run, whose timestep the UNet is told the second time: 41 with -3 of 50 steps.

    Source: Asthana and Belagiannis, "Detecting and Mitigating Memorization in Diffusion Models
    through Anisotropy of the Log-Probability", ICLR 2026 (arXiv 2601.20642). In the official code
    the option `--normalization` does nothing, velocities of SD 2 are taken for noise, and a third
    pass through the UNet is thrown away.

    Raises:
        InterpError: a run has no such step.
    """
    length = lengths(case.start.eps_c - case.start.eps_u)
    by_seed = case.by_seed("anisotropy", length)
    return weights[0] * by_seed + weights[1] * alignment(case, step)


def alignment(case: Case, step: int = -3) -> xr.DataArray:
    """Return the cosine over channels of `eps_u` and `eps_c - eps_u`, averaged over pixels.

    Example:
        >>> alignment(Case(sd, "a photo of a goat", seeds=4)).mean("seed")

    On pure noise of variance 1, with the timestep of a late step.

    Raises:
        InterpError: a run has no such step.
    """
    scheduler = copy.deepcopy(case.session.pipe.scheduler)
    scheduler.set_timesteps(case.session.steps)
    timesteps = scheduler.timesteps.tolist()
    if not -len(timesteps) <= step < len(timesteps):
        raise InterpError(
            f"The timestep of step {step} was asked for.",
            f"A run of this session has {len(timesteps)} steps.",
            "Give step= one of them, -1 for the last.",
        )
    points = case.told(case.noise, timesteps[step])
    cosine = functional.cosine_similarity(points.eps_u, points.eps_c - points.eps_u, dim=1)
    return case.by_seed("alignment", reduce(cosine, "seed h w -> seed", "mean"))
