"""What every hook of the toolkit rests on: owned handles, refusals, the clock and the rows.

Hooks go on modules and no processor is replaced: IP-Adapter, fused projections, slicing and
xFormers all overwrite processors, and a hook survives them. `Watch` tells, at every UNet call,
which step it is and what each row of the batch is. Not for models other than
`UNet2DConditionModel`: transformers (SD 3, Flux) have no such cross-attention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from diffusers.models.attention_processor import (
    Attention,
    AttnAddedKVProcessor,
    AttnAddedKVProcessor2_0,
    CustomDiffusionAttnProcessor,
    CustomDiffusionAttnProcessor2_0,
    CustomDiffusionXFormersAttnProcessor,
    FusedAttnProcessor2_0,
    SlicedAttnAddedKVProcessor,
    XFormersAttnAddedKVProcessor,
)
from torch import Tensor, nn

from interp.encoding import ASIDE, encoders
from interp.errors import InterpError
from interp.rows import Heard, Rows, from_heard, from_tokens
from interp.sites import Site, sites
from interp.tokens import Prompt

ADDED = (
    AttnAddedKVProcessor,
    AttnAddedKVProcessor2_0,
    SlicedAttnAddedKVProcessor,
    XFormersAttnAddedKVProcessor,
)
CUSTOM = (
    CustomDiffusionAttnProcessor,
    CustomDiffusionAttnProcessor2_0,
    CustomDiffusionXFormersAttnProcessor,
)


class Hooks(ExitStack):
    """An exit stack that owns module hooks, and removes exactly those, in any order.

    Example:
        >>> with Hooks() as hooks:
        ...     hooks.before(pipe.unet, watch)
        ...     hooks.after(pipe.unet.mid_block, look)
    """

    def before(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args, kwargs)` before the module runs."""
        handle = module.register_forward_pre_hook(hook, with_kwargs=True)
        self.callback(handle.remove)

    def after(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Call `hook(module, args, kwargs, output)` after the module ran."""
        handle = module.register_forward_hook(hook, with_kwargs=True)
        self.callback(handle.remove)


def is_fused(attention: Attention) -> bool:
    """Whether keys and values come from one fused projection.

    The flag `fused_projections` stays set after `unfuse_qkv_projections`; the processor tells.
    """
    return isinstance(attention.processor, FusedAttnProcessor2_0)


def hookable(pipe: Any) -> tuple[Site, ...]:
    """The cross-attention layers, or an error if hooks on them would be ignored or mislead.

    Example:
        >>> [site.name for site in hookable(pipe)]
        ['down.0.0', 'down.0.1', ..., 'up.3.2']

    Raises:
        InterpError: for a compiled UNet, processors that attend to more than the text or project it
            themselves, normalised queries or keys, and pipelines whose batches are not
            [unconditional..., conditional...].
    """
    unet = pipe.unet
    # A whole UNet or one block, wrapped by torch.compile(module) or in place by module.compile().
    if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in unet.modules()):
        raise InterpError(
            f"Hooks on the UNet of a {type(pipe).__name__} were asked for.",
            "It is compiled, and torch silently ignores hooks that are added after compiling.",
            "Use the pipeline before torch.compile (unet._orig_mod is the original module).",
        )
    layers = sites(unet)
    for site in layers:
        attention = unet.get_submodule(site.path)
        if isinstance(attention.processor, ADDED):
            raise InterpError(
                f"Layer {site.name} was to be hooked.",
                f"Its {type(attention.processor).__name__} attends to text and image at once, so "
                "attention to text alone does not sum to 1.",
                "Use a Stable Diffusion 1.x, 2.x or SDXL pipeline.",
            )
        if isinstance(attention.processor, CUSTOM):
            raise InterpError(
                f"Layer {site.name} was to be hooked.",
                f"Its {type(attention.processor).__name__} has key and value projections of its "
                "own, beside those of the layer.",
                "Use the model without Custom Diffusion weights.",
            )
        norms = ("norm_q", "norm_k", "norm_cross", "group_norm", "spatial_norm")
        present = [name for name in norms if getattr(attention, name, None)]
        if present:
            raise InterpError(
                f"Layer {site.name} was to be hooked.",
                f"It normalises inside its attention ({', '.join(present)}): not modelled.",
                "Use a Stable Diffusion 1.x, 2.x or SDXL pipeline.",
            )
    if getattr(pipe, "do_perturbed_attention_guidance", False) or "Pix2Pix" in type(pipe).__name__:
        raise InterpError(
            f"The rows of a {type(pipe).__name__} were to be told apart.",
            "Its batches are not [unconditional..., conditional...].",
            "Use a pipeline with plain classifier-free guidance.",
        )
    return layers


class Watch:
    """Knows, during every UNet call, the step and what each row of the batch is.

    Example:
        >>> with Hooks() as hooks:
        ...     watch = Watch(pipe, hooks)
        ...     pipe("a photo of a goat")
        >>> watch.run, watch.step      # the first run's last step
        (0, 49)

    `step` counts UNet calls within one run of the sampler, from 0. A new run begins when the
    scheduler was given new timesteps (every pipeline call does that), when its first timestep comes
    round again, or when `restart` was called. `at(step)` fixes the step of the calls that follow.
    """

    def __init__(
        self,
        pipe: Any,
        hooks: Hooks,
        tokens: Sequence[Prompt] | None = None,
        negative: Sequence[Prompt] | None = None,
        guided: bool | None = None,
    ) -> None:
        self.pipe, self.tokens, self.negative, self.guided = pipe, tokens, negative, guided
        self.run, self.step, self.timestep = -1, -1, float("nan")
        self.rows: Rows | None = None
        self.size: tuple[int, int] = (0, 0)
        self.started: list[Callable[[], None]] = []
        self._heard: list[Heard] = []
        self._stale = False
        self._fixed: int | None = None
        self._again = True
        self._seen: tuple[Any, float] = (None, float("nan"))
        self._text: Any = None
        if tokens is None or getattr(pipe, "text_encoder", None) is not None:
            primary, *second = (encoder for _, encoder in encoders(pipe))
            hooks.after(primary, self._hear)
            for encoder in second:
                hooks.after(encoder, self._hear_second)
        hooks.before(pipe.unet, self._tick)

    @property
    def batch(self) -> Rows:
        """The rows of the UNet call that is under way."""
        if self.rows is None:
            raise RuntimeError("Watch.batch is known only during a UNet call")
        return self.rows

    def restart(self) -> None:
        """The next UNet call is step 0 of a new run."""
        self._again, self._fixed = True, None

    def at(self, step: int | None) -> None:
        """All following UNet calls are this step, until `at(None)` or `restart`."""
        self._fixed = step

    def _hear(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if ASIDE.get():
            return
        ids = args[0] if args else kwargs["input_ids"]
        if self._stale:
            self._heard, self._stale = [], False
        # SDXL reads an earlier layer than SD, and clip_skip an earlier one still.
        states = [*(getattr(output, "hidden_states", None) or ()), output.get("last_hidden_state")]
        read = tuple(state for state in states if state is not None)
        self._heard.append(Heard(ids, None, read))

    def _hear_second(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        # SDXL's encoders are called one after the other, the primary one first.
        if not ASIDE.get() and self._heard:
            ids = args[0] if args else kwargs["input_ids"]
            self._heard[-1] = replace(self._heard[-1], ids_2=ids)

    def _tick(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        sample = args[0] if args else kwargs["sample"]
        given = args[1] if len(args) > 1 else kwargs["timestep"]
        # Rows may be of different timesteps where the UNet is called directly; the first speaks.
        timestep = float(given.flatten()[0] if isinstance(given, Tensor) else given)
        text = kwargs["encoder_hidden_states"] if len(args) < 3 else args[2]
        self._count(timestep)
        self.size = (sample.shape[-2], sample.shape[-1])
        if text is not self._text:
            self.rows, self._text, self._stale = self._identify(text), text, True
        for begin in self.started:
            begin()

    def _count(self, timestep: float) -> None:
        schedule = getattr(self.pipe.scheduler, "timesteps", None)
        known, first = self._seen
        came_round = timestep == first and timestep != self.timestep
        if self._again or schedule is not known or came_round:
            self.run, self.step = self.run + 1, 0
            # Holding the tensor itself keeps its identity from being given to another one.
            self._seen, self._again = (schedule, timestep), False
        else:
            self.step += 1
        if self._fixed is not None:
            self.step = self._fixed
        self.timestep = timestep

    def _identify(self, text: Tensor) -> Rows:
        guided = self.guided
        if guided is None:
            guided = bool(getattr(self.pipe, "do_classifier_free_guidance", False))
        if self.tokens is None:
            return from_heard(self.pipe, self._heard, text, guided)
        return from_tokens(self.pipe, self.tokens, self.negative, self._heard, text, guided)
