"""How far one step from pure noise moves: a memorized prompt goes to its image at once.

The cheapest of the detectors. It measures the length of a whole guided prediction, most of which is
the noise that every prompt predicts alike, so that little of it is the prompt's.
"""

import xarray as xr
from einops import reduce

from interp.denoiser.epsilon import alpha_bar
from interp.detect.case import Case


def one_step_distance(case: Case) -> xr.DataArray:
    """Return the mean of `(x0_hat - sigma x_T)^2` after one guided step from the noise, `(seed)`.

    Example:
        >>> one_step_distance(Case(sd, "a photo of a goat", seeds=4)).mean("seed")

    `x_T` is unit noise and `sigma = sqrt((1 - abar) / abar)` that of the last training timestep
    (14.6 in SD 1), at which noise has this size and signal 1, as in k-diffusion. A step from there
    to no noise ends at `x0_hat = sigma x_T - sigma eps_hat`, with the guided noise
    `eps_hat = eps_u + w (eps_c - eps_u)`, so this is `sigma^2 mean(eps_hat^2)`.

    Cost: two UNet rows a seed.

    Source: Webster, "A Reproducible Extraction of Training Images from Diffusion Models", 2023
    (arXiv 2305.08694), the white-box attack, whose one Heun step ends without noise and is thus an
    Euler step. The official code keeps the last of a prompt's seeds only, and skips prompts twice
    where it is told to skip some. His black-box attack, which finds edges that all seeds have, is
    not here: the scale of its threshold of 1.5 is not clear from what we have read.
    """
    scheduler = case.session.pipe.scheduler
    last = scheduler.config.num_train_timesteps - 1
    abar = alpha_bar(scheduler, last)
    # The UNet is given noise as long as it would be beside an image.
    points = case.told(case.noise * (1 - abar) ** 0.5, last)
    guided = points.eps_u + case.session.guidance * (points.eps_c - points.eps_u)
    moved = (1 - abar) / abar * reduce(guided.square(), "seed c h w -> seed", "mean")
    return case.by_seed("one_step_distance", moved)
