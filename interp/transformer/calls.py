"""How a text-to-image pipeline is called, and how it calls what denoises.

What is said here is what Stable Diffusion's pipelines with a UNet do; families of transformers say
what they do otherwise. Not for what happens inside a denoiser: that is in `Family`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor


class Calls:
    """The calls of pipelines with a UNet.

    Attributes:
        always: arguments of every call of a session's.
        fewest: steps that a run has at least.
        told: by what a scheduler's timesteps are multiplied for the denoiser.
        passes: whether unconditional rows come in a second call, not in the same batch.
        guide: what makes a session have unconditional rows, for people.
    """

    always: ClassVar[Mapping[str, Any]] = {}
    fewest: ClassVar[int] = 1
    told: ClassVar[float] = 1.0
    passes: ClassVar[bool] = False
    guide: ClassVar[str] = "guidance above 1"

    def multiple(self, pipe: Any) -> int:
        """Of how many pixels the sides of an image are multiples."""
        return 8

    def guided(self, denoiser: Any, guidance: float, call: Mapping[str, Any]) -> bool:
        """Whether there are unconditional rows at this guidance, with these other arguments."""
        return guidance > 1 and denoiser.config.time_cond_proj_dim is None

    def channels(self, denoiser: Any) -> int:
        """Channels of the latents of an image."""
        return denoiser.config.in_channels

    def packed(self, latents: Float[Tensor, "row c h w"]) -> Tensor:
        """Latents as the pipeline and its denoiser have them."""
        return latents

    def spread(self, latents: Tensor, height: int, width: int) -> Float[Tensor, "row c h w"]:
        """Latents as images, so many latents high and wide: `packed` undone."""
        return latents

    def text(
        self,
        embeds: Float[Tensor, "row position channel"],
        pooled: Float[Tensor, "row pooled"] | None,
        read: Bool[Tensor, "row position"],
    ) -> dict[str, Tensor]:
        """What the pipeline is given in the place of prompts; `read` is False for pads."""
        given = {"prompt_embeds": embeds}
        return given if pooled is None else {**given, "pooled_prompt_embeds": pooled}

    def arguments(
        self,
        pipe: Any,
        latents: Float[Tensor, "row c h w"],
        embeds: Float[Tensor, "row position channel"],
        pooled: Float[Tensor, " pooled"] | None,
        read: Bool[Tensor, " position"],
        guidance: float,
    ) -> dict[str, Any]:
        """What the denoiser is given beside latents and timestep, as the pipeline would."""
        more = None if pooled is None else _sizes(pipe, pooled, latents)
        return {"encoder_hidden_states": embeds, "added_cond_kwargs": more}

    def schedule(self, scheduler: Any, steps: int, tokens: int = 4096, device: Any = None) -> None:
        """Set a scheduler's timesteps as the pipeline does, for an image of so many tokens."""
        scheduler.set_timesteps(steps, device=device)


def flow(scheduler: Any, steps: int, tokens: int, device: Any, sigmas: bool) -> None:
    """Set the timesteps of flow matching, which may be shifted by an image's size.

    Example:
        >>> flow(pipe.scheduler, 28, tokens=4096, device="cpu", sigmas=True)

    `sigmas` says whether they are given, evenly, as FLUX does.
    """
    config, more = scheduler.config, dict[str, Any]()
    if config.get("use_dynamic_shifting"):
        from diffusers.pipelines.flux.pipeline_flux import calculate_shift  # takes a second

        names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
        more["mu"] = calculate_shift(tokens, *(config[name] for name in names))
    if sigmas and not config.get("use_flow_sigmas"):
        more["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        scheduler.set_timesteps(device=device, **more)
    else:
        scheduler.set_timesteps(steps, device=device, **more)


def _sizes(pipe: Any, pooled: Tensor, latents: Tensor) -> dict[str, Tensor]:
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
