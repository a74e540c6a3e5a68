"""One batch of worlds through the stock pipeline: prompts, seeds and patches as rows.

A *world* is one image to make. Worlds of one batch share nothing but the UNet call: each has its
own generator, seeded as if it were alone, so the same seed is the same noise in every world. The
pipeline's own `__call__` does the denoising. Use `Session`; this file knows nothing of defaults,
axes or provenance.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.epsilon import alpha_bar, to_epsilon
from interp.denoiser.hooks import Hooks, hookable
from interp.errors import InterpError
from interp.patch import Patch
from interp.patch.base import Operation
from interp.patch.on_pipeline import attach
from interp.record import record
from interp.text.prompt import Prompt


@dataclass(frozen=True, eq=False)
class World:
    """One image to make: a prompt, a seed, and what is done to it."""

    prompt: Prompt
    seed: int
    patch: Patch | None = None


@dataclass
class Traced:
    """What the UNet was given and predicted, one entry per call: `[row, c, h, w]` each, on the CPU.

    `eps_u` stays empty without guidance. Predictions are noise, whatever the model predicts.
    """

    latents: list[Tensor]
    eps_c: list[Tensor]
    eps_u: list[Tensor]
    timesteps: list[float]
    alpha_bars: list[float]


@dataclass
class Batch:
    """What came out: final latents, images if asked for, recordings and trace if asked for.

    `touched` are the operations that touched something: whether one that did not is a mistake can
    be said only when all batches are through.
    """

    latents: Float[Tensor, "row c h w"]
    images: np.ndarray | None = None
    recorded: xr.Dataset | None = None
    traced: Traced | None = None
    touched: Set[Operation] = frozenset()


def generate(
    pipe: Any,
    worlds: Sequence[World],
    negative: Prompt | None,
    *,
    recorders: Sequence[Any] = (),
    images: bool = True,
    trace: torch.dtype | None = None,
    leaders: Sequence[int] | None = None,
    tick: Callable[[], Any] = lambda: None,
    **call: Any,
) -> Batch:
    """Run one batch of worlds.

    Example:
        >>> worlds = [World(a, seed=0), World(a, seed=0, patch=ip.zero("pad"))]
        >>> generate(pipe, worlds, empty, num_inference_steps=50, guidance_scale=7.5).images

    Args:
        pipe: a stock Stable Diffusion 1.x, 2.x or SDXL pipeline.
        worlds: one per image.
        negative: the prompt of the unconditional rows; None without guidance.
        recorders: as for `record`.
        images: decode the images; without them the VAE does not run.
        trace: keep latents and noise predictions, in this dtype.
        leaders: for each world, the world whose latents it is given at every step (the clean
            trajectory); None lets every world follow its own.
        tick: called after every denoising step.
        call: other arguments of the pipeline's `__call__`.

    Raises:
        InterpError: what comes out is not finite.
    """
    prompts = [world.prompt for world in worlds]
    final: list[Tensor] = []

    def after_step(pipe: Any, index: int, timestep: Any, state: dict) -> dict:
        if leaders is not None:
            state["latents"] = state["latents"][list(leaders)]
        final[:] = [state["latents"]]
        tick()
        return state

    with ExitStack() as stack:
        stack.enter_context(_quiet(pipe))
        traced = stack.enter_context(_tracing(pipe, trace)) if trace is not None else None
        negatives = None if negative is None else [negative]
        attached = None
        if any(world.patch is not None for world in worlds):
            patched = [(world.prompt, world.patch) for world in worlds]
            attached = stack.enter_context(attach(pipe, patched, negative=negatives, strict=False))
        log = None
        if recorders:
            log = stack.enter_context(record(pipe, *recorders, tokens=prompts, negative=negatives))
        output = pipe(
            **_embeddings(prompts, negative),
            generator=[torch.Generator().manual_seed(world.seed) for world in worlds],
            output_type="np" if images else "latent",
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=["latents"],
            **call,
        )
    latents = final[0].cpu()
    _check_finite(worlds, latents.float().numpy(), "latents")
    if images:
        _check_finite(worlds, output.images, "pixels")
    return Batch(
        latents=latents,
        # The rounding of diffusers' own conversion to PIL.
        images=(output.images * 255).round().astype(np.uint8) if images else None,
        recorded=None if log is None else log.dataset(),
        traced=traced,
        touched=frozenset() if attached is None else frozenset(attached.touched),
    )


def _check_finite(worlds: Sequence[World], values: np.ndarray, what: str) -> None:
    """Raise if some world ended in NaN or infinity: as an image it would be black or noise."""
    finite = np.isfinite(values).reshape(len(worlds), -1).all(axis=1)
    broken = [world for world, good in zip(worlds, finite, strict=True) if not good]
    if broken:
        first = broken[0]
        raise InterpError(
            f"{first.prompt.text!r} was run with seed {first.seed} and patch {first.patch!r}.",
            f"Its {what} are not all finite, nor are those of {len(broken) - 1} others.",
            "Run in float32 or bfloat16 (SDXL's VAE overflows in float16), or patch more gently.",
        )


def _embeddings(prompts: Sequence[Prompt], negative: Prompt | None) -> dict[str, Tensor]:
    """Prompts as the pipeline's keyword arguments."""
    given = {"prompt_embeds": torch.stack([prompt.embeds for prompt in prompts])}
    pooled = [prompt.pooled for prompt in prompts if prompt.pooled is not None]
    if pooled:
        given["pooled_prompt_embeds"] = torch.stack(pooled)
    if negative is not None:
        given["negative_prompt_embeds"] = torch.stack([negative.embeds] * len(prompts))
        if negative.pooled is not None:
            given["negative_pooled_prompt_embeds"] = torch.stack([negative.pooled] * len(prompts))
    return given


@contextmanager
def _quiet(pipe: Any) -> Iterator[None]:
    """Silence the pipeline's own bar and decode image by image, and restore both settings.

    Decoding one by one keeps the VAE, the hungriest part at 512 x 512, from growing with the
    batch, and gives each image as if it had been made alone.
    """
    missing = object()
    bar, slicing = getattr(pipe, "_progress_bar_config", missing), pipe.vae.use_slicing
    pipe.set_progress_bar_config(disable=True)
    pipe.vae.use_slicing = True
    try:
        yield
    finally:
        pipe.vae.use_slicing = slicing
        if bar is missing:
            with contextlib.suppress(AttributeError):
                del pipe._progress_bar_config
        else:
            pipe._progress_bar_config = bar


@contextmanager
def _tracing(pipe: Any, dtype: torch.dtype) -> Iterator[Traced]:
    """Keep what the UNet is given and returns, as noise, at every call."""
    hookable(pipe)
    traced = Traced([], [], [], [], [])
    kind = pipe.scheduler.config.prediction_type

    def keep(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
        sample, timestep = args[0], float(args[1])
        prediction = output[0]
        abar = alpha_bar(pipe.scheduler, timestep)
        epsilon = to_epsilon(prediction, sample, abar, kind).to(dtype).cpu()
        traced.timesteps.append(timestep)
        traced.alpha_bars.append(abar)
        if pipe.do_classifier_free_guidance:
            uncond, cond = rearrange(epsilon, "(half row) c h w -> half row c h w", half=2)
            traced.eps_u.append(uncond)
        else:
            cond = epsilon
        traced.eps_c.append(cond)
        traced.latents.append(sample[-len(cond) :].to(dtype).cpu())

    with Hooks() as hooks:
        hooks.after(pipe.unet, keep)
        yield traced
