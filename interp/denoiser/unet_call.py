"""Calling the UNet directly: how often a run calls it, where a run starts, and one prediction.

For work on single steps, such as gradients; whole generations go through the pipeline (`Session`).
The pipeline's scheduler is copied, never stepped.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.epsilon import alpha_bar, to_epsilon


def calls_per_run(pipe: Any, steps: int) -> int:
    """Return how often the UNet is called in so many steps: some schedulers call it twice.

    Example:
        >>> calls_per_run(pipe, 50)
        50
    """
    return len(timesteps(pipe, steps))


def timesteps(pipe: Any, steps: int) -> Float[Tensor, " call"]:
    """Return what the UNet is told at each call of a run.

    Example:
        >>> timesteps(pipe, 50)[0]
        tensor(981.)
    """
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps, device=pipe._execution_device)
    return scheduler.timesteps.float()


def latent_shape(pipe: Any, height: int, width: int) -> tuple[int, int, int]:
    """Return channels, height and width of the latents of an image in pixels.

    Example:
        >>> latent_shape(pipe, 512, 512)
        (4, 64, 64)
    """
    scale = pipe.vae_scale_factor
    return pipe.unet.config.in_channels, height // scale, width // scale


def noise(pipe: Any, seed: int, height: int, width: int) -> Float[Tensor, "1 c h w"]:
    """Return the unit noise of a seed, the one that the pipeline draws from its CPU generator.

    Example:
        >>> noise(pipe, 0, 512, 512).shape
        torch.Size([1, 4, 64, 64])
    """
    shape = (1, *latent_shape(pipe, height, width))
    generator = torch.Generator().manual_seed(seed)
    device = pipe._execution_device
    return randn_tensor(shape, generator=generator, device=device, dtype=pipe.unet.dtype)


def first_step(
    pipe: Any, seeds: Sequence[int], steps: int, height: int, width: int
) -> tuple[Float[Tensor, "row c h w"], Float[Tensor, ""], list[float]]:
    """Return what the UNet is given at the first step, the timestep, and every row's `alpha_bar`.

    Example:
        >>> latents, timestep, alpha_bars = first_step(pipe, [0], 50, 512, 512)
    """
    return from_noise(pipe, torch.cat([noise(pipe, s, height, width) for s in seeds]), steps)


def from_noise(
    pipe: Any, unit: Float[Tensor, "row c h w"], steps: int
) -> tuple[Float[Tensor, "row c h w"], Float[Tensor, ""], list[float]]:
    """The same from unit noise, differentiable in it.

    Example:
        >>> latents, timestep, alpha_bars = from_noise(pipe, noise(pipe, 0, 512, 512), 50)
    """
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps, device=pipe._execution_device)
    timestep = scheduler.timesteps[0]
    latents = scheduler.scale_model_input(unit * scheduler.init_noise_sigma, timestep)
    return latents, timestep.float(), [alpha_bar(scheduler, float(timestep))] * len(unit)


def predict(
    pipe: Any,
    latents: Float[Tensor, "row c h w"],
    timestep: Float[Tensor, "..."],
    alpha_bars: Sequence[float],
    embeds: Float[Tensor, "row position channel"],
    pooled: Float[Tensor, " pooled"] | None,
) -> Float[Tensor, "row c h w"]:
    """Return one prediction as noise, differentiable in latents and embeddings.

    Example:
        >>> predict(pipe, *first_step(pipe, [0], 50, 512, 512), a.embeds[None], a.pooled)

    Args:
        latents: what the UNet is given (after the scheduler's input scaling).
        timestep: one for all rows, or one each.
        alpha_bars: of every row (see `alpha_bar`).
        pooled: SDXL's pooled embedding, the same for all rows.
    """
    output = pipe.unet(
        latents,
        timestep,
        encoder_hidden_states=embeds.to(latents),
        added_cond_kwargs=None if pooled is None else _added(pipe, pooled, latents),
        return_dict=False,
    )[0]
    kind = pipe.scheduler.config.prediction_type
    rows = zip(output, latents, alpha_bars, strict=True)
    return torch.stack([to_epsilon(one, given, abar, kind) for one, given, abar in rows])


def _added(pipe: Any, pooled: Tensor, latents: Tensor) -> dict[str, Tensor]:
    """SDXL's added conditions, as its pipeline makes them for an uncropped image."""
    height, width = (side * pipe.vae_scale_factor for side in latents.shape[-2:])
    size = (height, width)
    ids = pipe._get_add_time_ids(
        size, (0, 0), size, dtype=pooled.dtype, text_encoder_projection_dim=len(pooled)
    )
    return {
        "text_embeds": rearrange(pooled, "d -> 1 d"),
        "time_ids": ids.to(pooled.device),
    }
