"""One batch of images through the stock pipeline: prompts, seeds and patches as rows.

Images of one batch share nothing but the UNet call: each has its own generator, seeded as if it
were alone, so a seed gives the same noise in every batch. The pipeline's own `__call__` does the
denoising. Use `Session`; this file knows nothing about defaults, axes or provenance.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.denoiser import unet_call
from interp.denoiser.epsilon import alpha_bar, to_epsilon
from interp.denoiser.hooks import Hooks, hookable
from interp.errors import InterpError
from interp.patch import Patch, apply
from interp.patch.base import Operation
from interp.record import record
from interp.text.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Job:
    """One image to generate: a prompt, a seed and a patch.

    `place` is its place among the results; None for a run that only gives others its latents.
    `latents` is unit noise `[c, h, w]` in the place of the seed's own; `correct` as in `Start`.
    """

    prompt: Prompt
    seed: int
    patch: Patch | None = None
    place: int | None = None
    latents: Float[Tensor, "c h w"] | None = None
    correct: Callable[[int, Tensor, Tensor], Tensor] | None = None


@dataclass
class Trace:
    """The UNet's inputs and predictions, one entry per call: `[row, c, h, w]` each, on the CPU.

    `eps_u` is empty without guidance. Predictions are converted to noise, whatever the model
    predicts.
    """

    latents: list[Tensor]
    eps_c: list[Tensor]
    eps_u: list[Tensor]
    timesteps: list[float]
    alpha_bars: list[float]


@dataclass
class Generated:
    """The results: final latents and, if asked for, images, recordings and trace.

    `touched` are the operations that touched something. Whether another one is a mistake is known
    only after all batches.
    """

    latents: Float[Tensor, "row c h w"]
    images: np.ndarray | None = None
    recorded: xr.Dataset | None = None
    trace: Trace | None = None
    touched: Set[Operation] = frozenset()


def generate(
    pipe: Any,
    jobs: Sequence[Job],
    negative: Prompt | None,
    *,
    recorders: Sequence[Any] = (),
    images: bool = True,
    trace: torch.dtype | None = None,
    clean: bool = False,
    tick: Callable[[], Any] = lambda: None,
    **call: Any,
) -> Generated:
    """Run one batch.

    Example:
        >>> jobs = [Job(a, seed=0), Job(a, seed=0, patch=ip.zero("pad"))]
        >>> generate(pipe, jobs, empty, num_inference_steps=50, guidance_scale=7.5).images

    Args:
        pipe: a stock Stable Diffusion 1.x, 2.x or SDXL pipeline.
        jobs: one per image.
        negative: the prompt of the unconditional rows; None without guidance.
        recorders: as for `record`.
        images: decode the images; otherwise the VAE does not run.
        trace: keep latents and noise predictions in this dtype.
        clean: give all rows the latents of the first row at every step (the clean trajectory).
        tick: called after every denoising step.
        call: other arguments of the pipeline's `__call__`.

    Raises:
        InterpError: the results are not finite.
    """
    prompts = [job.prompt for job in jobs]
    final: list[Tensor] = []
    before: list[Tensor] = []

    def after_step(pipe: Any, index: int, timestep: Any, state: dict) -> dict:
        if any(job.correct for job in jobs):
            start = before[0] if before else _started(pipe, jobs, call)
            pairs = zip(jobs, start, state["latents"], strict=True)
            state["latents"] = torch.stack(
                [job.correct(index, was, now) if job.correct else now for job, was, now in pairs]
            )
        if clean:
            state["latents"] = state["latents"][[0] * len(jobs)]
        before[:] = final[:] = [state["latents"]]
        tick()
        return state

    with ExitStack() as stack:
        stack.enter_context(_quiet(pipe))
        traced = None
        if trace is not None:
            traced = stack.enter_context(_tracing(pipe, trace, negative is not None))
        negatives = None if negative is None else [negative]
        applied = None
        if any(job.patch is not None for job in jobs):
            patched = [(job.prompt, job.patch) for job in jobs]
            applied = stack.enter_context(apply(pipe, patched, negative=negatives, strict=False))
        log = None
        if recorders:
            log = stack.enter_context(record(pipe, *recorders, tokens=prompts, negative=negatives))
        if any(job.latents is not None for job in jobs):
            call["latents"] = torch.stack([_noise(pipe, job, call) for job in jobs])
        output = pipe(
            **_embeddings(prompts, negative),
            generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
            output_type="np" if images else "latent",
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=["latents"],
            **call,
        )
    latents = final[0].cpu()
    _check_finite(jobs, latents.float().numpy(), "latents")
    if images:
        _check_finite(jobs, output.images, "pixels")
    return Generated(
        latents=latents,
        # The rounding of diffusers' own conversion to PIL.
        images=(output.images * 255).round().astype(np.uint8) if images else None,
        recorded=None if log is None else log.dataset(),
        trace=traced,
        touched=frozenset() if applied is None else frozenset(applied.touched),
    )


def _noise(pipe: Any, job: Job, call: Mapping[str, Any]) -> Float[Tensor, "c h w"]:
    """A job's unit noise: its own or its seed's."""
    if job.latents is None:
        return unet_call.noise(pipe, job.seed, call["height"], call["width"])[0]
    return job.latents.to(pipe._execution_device, pipe.unet.dtype)


def _started(pipe: Any, jobs: Sequence[Job], call: Mapping[str, Any]) -> Float[Tensor, "row c h w"]:
    """What the pipeline makes of the noise before its first step."""
    unit = torch.stack([_noise(pipe, job, call) for job in jobs])
    return unit * pipe.scheduler.init_noise_sigma


def _check_finite(jobs: Sequence[Job], values: np.ndarray, what: str) -> None:
    """Raise if a result contains NaN or infinity, which would look like a black or noisy image."""
    finite = np.isfinite(values).reshape(len(jobs), -1).all(axis=1)
    broken = [job for job, good in zip(jobs, finite, strict=True) if not good]
    if broken:
        first = broken[0]
        raise InterpError(
            f"{first.prompt.text!r} was run with seed {first.seed} and patch {first.patch!r}.",
            f"Its {what} are not all finite, and neither are those of {len(broken) - 1} others.",
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
    """Silence the pipeline's progress bar and decode image by image; restore both settings.

    Decoding one by one keeps the memory of the VAE, the largest at 512 x 512, from growing with the
    batch, and makes each image independent of the others.
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
def _tracing(pipe: Any, dtype: torch.dtype, guided: bool) -> Iterator[Trace]:
    """Keep what the UNet is given and returns, as noise, at every call."""
    hookable(pipe)
    trace = Trace([], [], [], [], [])
    scheduler = pipe.scheduler
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InterpError(
            f"A trace with a {type(scheduler).__name__} was asked for.",
            "It has no alphas_cumprod, by which predictions are read as noise.",
            "Trace with DDIM, Euler, DPM++ or another of Stable Diffusion's schedulers.",
        )
    kind = scheduler.config.prediction_type

    def keep(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
        sample, timestep = args[0], float(args[1])
        prediction = output[0]
        abar = alpha_bar(pipe.scheduler, timestep)
        epsilon = to_epsilon(prediction, sample, abar, kind).to(dtype).cpu()
        trace.timesteps.append(timestep)
        trace.alpha_bars.append(abar)
        if guided:
            uncond, cond = rearrange(epsilon, "(half row) c h w -> half row c h w", half=2)
            trace.eps_u.append(uncond)
        else:
            cond = epsilon
        trace.eps_c.append(cond)
        trace.latents.append(sample[-len(cond) :].to(dtype).cpu())

    with Hooks() as hooks:
        hooks.after(pipe.unet, keep)
        yield trace
