"""How sharply guidance changes along itself: memorized images sit on narrow peaks of the density.

Sees memorization before anything is generated, like the norm of guidance, of which it is the rate
of growth. Wants float32: it is a derivative.
"""

import torch
import xarray as xr

from interp.denoiser.derivatives import jvp
from interp.detect.around import each, guidance, lengths
from interp.detect.case import Case


def sharpness(case: Case, difference: int | float | None = None) -> xr.DataArray:
    """Return `||H s||_2`, with `s = s_c - s_u` and `H` its Jacobian at the first step, `(seed)`.

    Example:
        >>> sharpness(Case(sd, "a photo of a goat", seeds=4)).mean("seed")
        >>> sharpness(case, difference=0.1)                 # kernels without forward derivatives

    Scores are `s_c = -eps_c / sigma` and `s_u = -eps_u / sigma`, so that this is
    `||J (eps_c - eps_u)|| / sigma^2`, `J` being the Jacobian of `eps_c - eps_u` in the latents.

    Cost: four UNet rows a seed, and derivatives of two. With `difference`, six rows and none.

    Args:
        difference: None, or the length of a central finite difference; see `derivatives.jvp`.

    Source: Jeon, Kim and No, "Understanding and Mitigating Memorization in Generative Models via
    Sharpness of Probability Landscapes", ICML 2025 (arXiv 2412.04140). The official code averages
    in bfloat16, runs the UNet once more before it returns, switches PyTorch's attention kernels for
    the whole process, and takes velocities of SD 2 for predictions of the image.
    """
    found = []
    for point in each(case.start):
        delta, variance = point.eps_c - point.eps_u, 1 - point.alpha_bar[0]
        along = jvp(guidance(case.session, point), point.latents, delta, difference)
        found.append(lengths(along) / variance)
    return case.by_seed("sharpness", torch.cat(found))
