"""What of the two predictions' energy pulls on the latent: a gradient for any attention kernel.

The gradients of `||eps_c||^2 / 2` and `||eps_u||^2 / 2` in the latents, and how far they are apart.
Where sharpness needs a forward derivative, this needs a backward one, which every kernel has.
"""

import torch
import xarray as xr

from interp.denoiser.derivatives import vjp
from interp.detect.around import each, eps_c, eps_u, lengths
from interp.detect.case import Case


def pull_back(case: Case) -> xr.DataArray:
    """Return `||J_c^T eps_c - J_u^T eps_u||_2^2` at the first step, `(seed)`.

    Example:
        >>> pull_back(Case(sd, "a photo of a goat", seeds=4)).mean("seed")

    `J_c` and `J_u` are the Jacobians of the conditional and unconditional predictions in the
    latents.

    Cost: four UNet rows a seed, and derivatives of two.

    Source: an anonymous submission to ICML 2026 (github.com/randomnameforicml/icml-2026), metric 2.
    Its code runs in float16 without scaling of gradients, and reads the prompt from a key that Wen
    et al.'s file does not have (and then scores the empty prompt).
    """
    found = []
    for point in each(case.start):
        c, u = eps_c(case.session, point), eps_u(case.session, point)
        pulls = vjp(c, point.latents, point.eps_c) - vjp(u, point.latents, point.eps_u)
        found.append(lengths(pulls) ** 2)
    return case.by_seed("pull_back", torch.cat(found))
