"""Calling the denoiser directly: how often a run calls it, where a run starts, and one prediction.

For work on single steps, such as gradients; whole generations go through the pipeline (`Session`).
The pipeline's scheduler is copied, never stepped. How its denoiser is called is the pipeline's
(see `transformer.calls`).
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.epsilon import FLOW, alpha_bar, prediction, to_epsilon
from interp.denoiser.pipelines import denoiser
from interp.text.categories import PAD
from interp.text.prompt import Prompt
from interp.transformer.family import calls


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
    calls(pipe).schedule(scheduler, steps, device=pipe._execution_device)
    return scheduler.timesteps.float()


def latent_shape(pipe: Any, height: int, width: int) -> tuple[int, int, int]:
    """Return channels, height and width of the latents of an image in pixels.

    Example:
        >>> latent_shape(pipe, 512, 512)
        (4, 64, 64)
    """
    scale = pipe.vae_scale_factor
    return calls(pipe).channels(denoiser(pipe)), height // scale, width // scale


def noise(pipe: Any, seed: int, height: int, width: int) -> Float[Tensor, "1 c h w"]:
    """Return the unit noise of a seed, the one that the pipeline draws from its CPU generator.

    Example:
        >>> noise(pipe, 0, 512, 512).shape
        torch.Size([1, 4, 64, 64])
    """
    shape = (1, *latent_shape(pipe, height, width))
    generator = torch.Generator().manual_seed(seed)
    device = pipe._execution_device
    return randn_tensor(shape, generator=generator, device=device, dtype=denoiser(pipe).dtype)


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
    tokens = unit.shape[-2] * unit.shape[-1] // 4
    calls(pipe).schedule(scheduler, steps, tokens, pipe._execution_device)
    timestep = scheduler.timesteps[0]
    latents = unit
    if prediction(scheduler) != FLOW:
        latents = scheduler.scale_model_input(unit * scheduler.init_noise_sigma, timestep)
    return latents, timestep.float(), [alpha_bar(scheduler, float(timestep))] * len(unit)


def predict(
    pipe: Any,
    latents: Float[Tensor, "row c h w"],
    timestep: Float[Tensor, "..."],
    alpha_bars: Sequence[float],
    embeds: Float[Tensor, "row position channel"],
    prompt: Prompt,
    guidance: float = 1.0,
) -> Float[Tensor, "row c h w"]:
    """Return one prediction as noise, differentiable in latents and embeddings.

    Example:
        >>> predict(pipe, *first_step(pipe, [0], 50, 512, 512), a.embeds[None], a)

    Args:
        latents: what the UNet is given (after the scheduler's input scaling).
        timestep: one for all rows, or one each.
        alpha_bars: of every row (see `alpha_bar`).
        prompt: whose pooled embedding and pads, the same for all rows, go with the embeddings.
        guidance: what a model with distilled guidance is told.
    """
    known, model = calls(pipe), denoiser(pipe)
    more = known.arguments(
        pipe, latents, embeds.to(latents), prompt.pooled, prompt.category < PAD, guidance
    )
    given = known.packed(latents)
    when = timestep.expand(len(latents)) * known.told
    output = model(given, timestep=when, **more, return_dict=False)[0]
    # Without variances, which some models predict too.
    output = known.spread(output[:, : given.shape[1]], *latents.shape[-2:])
    kind = prediction(pipe.scheduler)
    rows = zip(output, latents, alpha_bars, strict=True)
    return torch.stack([to_epsilon(one, given, abar, kind) for one, given, abar in rows])
