"""The first step of a generation, called directly: its noise, and its guidance with gradients.

What `Session` needs beside whole generations. The pipeline's scheduler is copied, never stepped.
"""

import copy
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.epsilon import alpha_bar, to_epsilon
from interp.text.prompt import Prompt


def calls(pipe: Any, steps: int) -> int:
    """Return how often the UNet is called in so many steps: some schedulers call it twice.

    Example:
        >>> calls(pipe, 50)
        50
    """
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps)
    return len(scheduler.timesteps)


def noise(pipe: Any, seed: int, height: int, width: int) -> Float[Tensor, "1 c h w"]:
    """Return the unit noise of a seed, the one that the pipeline draws from its CPU generator.

    Example:
        >>> noise(pipe, 0, 512, 512).shape
        torch.Size([1, 4, 64, 64])
    """
    scale = pipe.vae_scale_factor
    shape = (1, pipe.unet.config.in_channels, height // scale, width // scale)
    generator = torch.Generator().manual_seed(seed)
    device = pipe._execution_device
    return randn_tensor(shape, generator=generator, device=device, dtype=pipe.unet.dtype)


def guidance_at_start(
    pipe: Any,
    prompt: Prompt,
    negative: Prompt,
    embeds: Float[Tensor, "position channel"],
    seed: int,
    *,
    steps: int,
    height: int,
    width: int,
) -> Float[Tensor, "1 c h w"]:
    """Return `eps_c - eps_u` at the first step, differentiable in the conditional embeddings.

    Example:
        >>> guidance_at_start(pipe, a, empty, a.embeds, 0, steps=50, height=512, width=512).norm()

    Args:
        prompt: gives SDXL's pooled embedding; its own embeddings are not used.
        negative: the unconditional prompt.
        embeds: the conditional embeddings.
    """
    scheduler = copy.deepcopy(pipe.scheduler)
    scheduler.set_timesteps(steps, device=pipe._execution_device)
    timestep = scheduler.timesteps[0]
    latents = noise(pipe, seed, height, width) * scheduler.init_noise_sigma
    latents = scheduler.scale_model_input(latents, timestep)
    abar, kind = alpha_bar(scheduler, float(timestep)), scheduler.config.prediction_type

    def predict(text: Tensor, pooled: Tensor | None) -> Tensor:
        output = pipe.unet(
            latents,
            timestep,
            encoder_hidden_states=rearrange(text.to(latents.dtype), "p c -> 1 p c"),
            added_cond_kwargs=added(pipe, pooled, height, width),
            return_dict=False,
        )[0]
        return to_epsilon(output, latents, abar, kind)

    with torch.no_grad():
        unconditional = predict(negative.embeds, negative.pooled)
    return predict(embeds, prompt.pooled) - unconditional


def added(pipe: Any, pooled: Tensor | None, height: int, width: int) -> dict[str, Tensor] | None:
    """SDXL's added conditions, as its pipeline makes them for an uncropped image; None elsewhere.

    Example:
        >>> pipe.unet(latents, t, embeds, added_cond_kwargs=added(pipe, a.pooled, 1024, 1024))
    """
    if pooled is None:
        return None
    size = (height, width)
    ids = pipe._get_add_time_ids(
        size, (0, 0), size, dtype=pooled.dtype, text_encoder_projection_dim=len(pooled)
    )
    return {
        "text_embeds": rearrange(pooled, "d -> 1 d"),
        "time_ids": ids.to(pooled.device),
    }
