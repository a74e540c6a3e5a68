"""One batch of images through the stock pipeline: prompts, seeds and patches as rows.

Images of one batch share nothing but the UNet call: each has its own generator, seeded as if it
were alone, so the same seed is the same noise in every batch. The pipeline's own `__call__` does
the denoising. Use `Session`; this file knows nothing of defaults, axes or provenance.
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
from interp.denoiser.epsilon import alpha_bar, prediction, to_epsilon
from interp.denoiser.hooks import Hooks, hookable
from interp.denoiser.passes import Passes
from interp.denoiser.pipelines import denoiser
from interp.denoiser.steps import stepping
from interp.errors import InterpError
from interp.patch import Patch, apply
from interp.patch.base import Operation
from interp.record import record
from interp.text.categories import PAD
from interp.text.prompt import Prompt
from interp.transformer.family import calls


@dataclass(frozen=True, eq=False)
class Job:
    """One image to make: a prompt, a seed, and what is done to it.

    `place` is its place among the results; None for a run that only gives others its latents.
    `latents` is unit noise `[c, h, w]` in the place of the seed's own.
    """

    prompt: Prompt
    seed: int
    patch: Patch | None = None
    place: int | None = None
    latents: Float[Tensor, "c h w"] | None = None


@dataclass
class Trace:
    """What the UNet was given and predicted, one entry per call: `[row, c, h, w]` each, on the CPU.

    `eps_u` stays empty without guidance. Predictions are noise, whatever the model predicts.
    """

    latents: list[Tensor]
    eps_c: list[Tensor]
    eps_u: list[Tensor]
    timesteps: list[float]
    alpha_bars: list[float]


@dataclass
class Generated:
    """What came out: final latents, images if asked for, recordings and trace if asked for.

    `touched` are the operations that touched something: whether one that did not is a mistake can
    be said only when all batches are through.
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
        pipe: a stock text-to-image pipeline.
        jobs: one per image.
        negative: the prompt of the unconditional rows; None without guidance.
        recorders: as for `record`.
        images: decode the images; without them the VAE does not run.
        trace: keep latents and noise predictions, in this dtype.
        clean: give all rows the latents of the first at every step (the clean trajectory).
        tick: called after every denoising step.
        call: other arguments of the pipeline's `__call__`.

    Raises:
        InterpError: what comes out is not finite.
    """
    prompts = [job.prompt for job in jobs]
    final: list[Tensor] = []

    def after_step(latents: Tensor) -> Tensor:
        final[:] = [latents[[0] * len(jobs)] if clean else latents]
        tick()
        return final[0]

    with ExitStack() as stack:
        stack.enter_context(_quiet(pipe))
        stack.enter_context(stepping(pipe.scheduler, after_step))
        size = unet_call.latent_shape(pipe, call["height"], call["width"])[1:]
        traced = None
        if trace is not None:
            traced = stack.enter_context(_tracing(pipe, trace, negative is not None, size))
        negatives = None if negative is None else [negative]
        applied = None
        if any(job.patch is not None for job in jobs):
            patched = [(job.prompt, job.patch) for job in jobs]
            applied = stack.enter_context(apply(pipe, patched, negative=negatives, strict=False))
        log = None
        if recorders:
            log = stack.enter_context(record(pipe, *recorders, tokens=prompts, negative=negatives))
        if any(job.latents is not None for job in jobs):
            noise = torch.stack([_noise(pipe, job, call) for job in jobs])
            call["latents"] = calls(pipe).packed(noise)
        output = pipe(
            **calls(pipe).always,
            **_embeddings(pipe, prompts, negative),
            generator=[torch.Generator().manual_seed(job.seed) for job in jobs],
            output_type="np" if images else "latent",
            **call,
        )
    latents = calls(pipe).spread(final[0], *size).cpu()
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
    """The unit noise of a job, its own or its seed's."""
    if job.latents is None:
        return unet_call.noise(pipe, job.seed, call["height"], call["width"])[0]
    return job.latents.to(pipe._execution_device, denoiser(pipe).dtype)


def _check_finite(jobs: Sequence[Job], values: np.ndarray, what: str) -> None:
    """Raise if some image ended in NaN or infinity: as an image it would be black or noise."""
    finite = np.isfinite(values).reshape(len(jobs), -1).all(axis=1)
    broken = [job for job, good in zip(jobs, finite, strict=True) if not good]
    if broken:
        first = broken[0]
        raise InterpError(
            f"{first.prompt.text!r} was run with seed {first.seed} and patch {first.patch!r}.",
            f"Its {what} are not all finite; the same goes for {len(broken) - 1} other images.",
            "Run in float32 or bfloat16 (SDXL's VAE overflows in float16), or patch more gently.",
        )


def _embeddings(pipe: Any, prompts: Sequence[Prompt], negative: Prompt | None) -> dict[str, Tensor]:
    """Prompts as the pipeline's keyword arguments."""

    def given(those: Sequence[Prompt]) -> dict[str, Tensor]:
        pooled = [prompt.pooled for prompt in those if prompt.pooled is not None]
        return calls(pipe).text(
            torch.stack([prompt.embeds for prompt in those]),
            torch.stack(pooled) if pooled else None,
            torch.stack([prompt.category < PAD for prompt in those]),
        )

    if negative is None:
        return given(prompts)
    others = given([negative] * len(prompts))
    return {**given(prompts), **{f"negative_{name}": part for name, part in others.items()}}


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
def _tracing(pipe: Any, dtype: torch.dtype, guided: bool, size: tuple[int, int]) -> Iterator[Trace]:
    """Keep what the denoiser is given and returns, as noise, at every call."""
    hookable(pipe)
    trace, known, passes = Trace([], [], [], [], []), calls(pipe), Passes(pipe)
    kind = prediction(pipe.scheduler)
    alpha_bar(pipe.scheduler, 0)  # raises where predictions can not be read as noise

    def keep(module: Any, args: tuple, kwargs: dict, output: Any) -> None:
        again = passes.number(args[1] if len(args) > 1 else kwargs["timestep"])
        if again and not (guided and known.passes):
            return
        name = "sample" if "sample" in kwargs else "hidden_states"
        sample = args[0] if args else kwargs[name]
        # Without donors' rows, which patches add and take out again.
        sample = sample[: len(output[0])]
        if not again:
            # The scheduler's own, which half precision would round.
            trace.timesteps.append(float(pipe.scheduler.timesteps[len(trace.timesteps)]))
            trace.alpha_bars.append(alpha_bar(pipe.scheduler, trace.timesteps[-1]))
        # Some models predict variances too.
        predicted = known.spread(output[0][:, : sample.shape[1]], *size)
        sample = known.spread(sample, *size)
        epsilon = to_epsilon(predicted, sample, trace.alpha_bars[-1], kind).to(dtype).cpu()
        if again:
            trace.eps_u.append(epsilon)
            return
        cond = epsilon
        if guided and not known.passes:
            uncond, cond = rearrange(epsilon, "(half row) c h w -> half row c h w", half=2)
            trace.eps_u.append(uncond)
        trace.eps_c.append(cond)
        trace.latents.append(sample[-len(cond) :].to(dtype).cpu())

    with Hooks() as hooks:
        hooks.after(denoiser(pipe), keep)
        yield trace
