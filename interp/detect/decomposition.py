"""How much of the training image is in the latent, step by step, where that image is known.

A latent on its way is a share of the image that it will be and a share of the noise that it was.
The schedule says how large both should be; a memorized image comes sooner. No detector for
prompts whose image is not known.
"""

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.detect.case import Case
from interp.errors import InterpError
from interp.metrics.images import as_batch
from interp.results.axes import LATENT


def decomposition(case: Case) -> xr.DataArray:
    """Return the shares of training image and first noise in the latents, `(part, seed, step)`.

    Example:
        >>> shares = decomposition(Case(sd, prompt, seeds=4, training=image))
        >>> shares.sel(part="image").mean("seed").plot()            # beside sqrt(alpha_bar)

    The least-squares fit `z_k = a_k x + b_k x_T` over all elements of the latent: `x` is the
    training image's latent and `x_T` the latent of the first step. `part` is "image" for a and
    "noise" for b; the schedule, `sqrt(abar_k)` and `sqrt(1 - abar_k)`, is the coordinate
    `schedule(part, step)`.

    Cost: a run, and one encoding of the image; no further UNet row.

    Source: "How Diffusion Models Memorize", arXiv 2509.25705. Their fit is on what the latents are
    in theory; the details of their code we have not read.

    Raises:
        InterpError: the case has no training image, or one of another size.
    """
    trace = case.trace.isel(prompt=0)
    latents = trace.latents.transpose("seed", "step", *LATENT).astype(np.float64).values
    flat = rearrange(latents, "seed step c y x -> seed step (c y x)")
    image = rearrange(training_latent(case).double().cpu().numpy(), "1 c y x -> (c y x)")
    parts = [np.linalg.lstsq(np.stack([image, path[0]], 1), path.T)[0] for path in flat]
    abar = trace.alpha_bar.values
    return xr.DataArray(
        np.stack(parts, 1),
        {
            "part": ["image", "noise"],
            "seed": list(case.seeds),
            "step": range(flat.shape[1]),
            "schedule": (("part", "step"), np.sqrt([abar, 1 - abar])),
        },
        ("part", "seed", "step"),
        name="decomposition",
    )


def early_image(case: Case) -> xr.DataArray:
    """Return how much more of the training image there is than the schedule has, `(seed)`.

    Example:
        >>> early_image(Case(sd, prompt, seeds=4, training=image)).mean("seed")

    The mean over steps of `a_k - sqrt(abar_k)`; see `decomposition`. That one number is ours.
    """
    share = decomposition(case).sel(part="image", drop=True)
    return (share - share.schedule).mean("step").reset_coords(drop=True).rename("early_image")


@torch.no_grad()
def training_latent(case: Case) -> Float[Tensor, "1 c h w"]:
    """The training image as latents: the encoder's most likely one, scaled as the UNet has them.

    Example:
        >>> training_latent(Case(sd, prompt, training=image)).shape
        torch.Size([1, 4, ...])

    Raises:
        InterpError: the case has no training image, or one of another size.
    """
    session = case.session
    size = (session.height, session.width)
    batch = None if case.training is None else as_batch(case.training)
    if batch is None or len(batch) != 1 or tuple(batch.shape[-2:]) != size:
        has = "none" if batch is None else f"images of shape {tuple(batch.shape)}"
        raise InterpError(
            "The latent of the training image was asked for.",
            f"The case has {has}; there is one, of {size[0]} x {size[1]} pixels.",
            "Resize it first, and give it: Case(sd, prompt, training=image).",
        )
    vae = session.pipe.vae
    given = (2 * batch - 1).to(vae.device, vae.dtype)
    return vae.encode(given).latent_dist.mode() * vae.config.scaling_factor
