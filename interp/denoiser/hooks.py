"""Hooks that are taken off again, and which pipelines can be hooked at all.

Hooks go on modules and no processor is replaced: IP-Adapter, fused projections, slicing and
xFormers all overwrite processors, and a hook survives them. What is known of transformers, which
have no such cross-attention, is in `interp/transformer`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary

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
from torch import nn

from interp.denoiser.caller import stranger
from interp.denoiser.layers import Site, sites
from interp.denoiser.pipelines import denoiser as denoising
from interp.denoiser.pipelines import stock
from interp.errors import InterpError
from interp.transformer.family import family

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


#: What patches each denoiser now. Kept on this floor so that provenance need not import patches,
#: and weakly, so that it keeps no model in memory: what patches a denoiser lives in its hooks.
PATCHED: WeakKeyDictionary[nn.Module, ReferenceType[Any]] = WeakKeyDictionary()


def patched(denoiser: nn.Module) -> Any:
    """What patches a denoiser now, or None.

    Example:
        >>> handle = ip.zero("pad").install(pipe)
        >>> patched(pipe.unet).applied
        [(Applied(zero('pad')), ...)]
    """
    return PATCHED[denoiser]() if denoiser in PATCHED else None


def patches_on(pipe: Any) -> list[str]:
    """The patches that are on a pipeline now, as JSON, in the order in which they apply.

    Example:
        >>> handle = ip.zero("pad", fraction=0.7).install(pipe)
        >>> patches_on(pipe)
        ['[{"categories": ["pad"], "fraction": 0.7, "operation": "zero", "where": {}}]']
    """
    found = patched(denoising(pipe))
    return [] if found is None else found.patches(pipe)


_ASIDE: ContextVar[bool] = ContextVar("predicting aside", default=False)


@contextmanager
def aside() -> Iterator[None]:
    """Run modules past all hooks of ours: nothing is patched, recorded or counted.

    Example:
        >>> with aside():
        ...     pipe.unet(latents, timestep, encoder_hidden_states=embeds)

    For what a hook itself asks of the module that it is on.
    """
    token = _ASIDE.set(True)
    try:
        yield
    finally:
        _ASIDE.reset(token)


class _Hook:
    """A hook of ours. A copy of its module, by `copy.deepcopy` or pickle, has an empty one instead:
    nobody could take it off."""

    def __init__(self, hook: Callable[..., Any], of: Any = None) -> None:
        self._hook, self._of = hook, of

    def __call__(self, *call: Any) -> Any:
        if _ASIDE.get():
            return None
        if self._of is not None and stranger(self._of) is not None:
            return None
        return self._hook(*call)

    def __reduce__(self) -> Any:
        return partial, (_nothing,)


def _nothing(*call: Any) -> None:
    """What is left of a hook in a copy."""


class Hooks(ExitStack):
    """An exit stack that owns module hooks and removes exactly those, in any order.

    Example:
        >>> with Hooks() as hooks:
        ...     hooks.before(pipe.unet, lambda unet, args, kwargs: None)
        ...     hooks.after(pipe.unet.mid_block, lambda block, args, kwargs, output: None)
    """

    def before(
        self, module: nn.Module, hook: Callable[..., Any], of: Any = None, first: bool = False
    ) -> None:
        """Call `hook(module, args, kwargs)` before the module runs.

        With `of`, only where that pipeline runs it, or none does; `first` before all other hooks.
        """
        handle = module.register_forward_pre_hook(_Hook(hook, of), with_kwargs=True, prepend=first)
        self.callback(handle.remove)

    def after(
        self,
        module: nn.Module,
        hook: Callable[..., Any],
        always: bool = False,
        first: bool = False,
    ) -> None:
        """Call `hook(module, args, kwargs, output)` after the module ran, or `always` failed."""
        handle = module.register_forward_hook(
            _Hook(hook), with_kwargs=True, always_call=always, prepend=first
        )
        self.callback(handle.remove)


def is_fused(attention: Attention) -> bool:
    """Whether keys and values come from one fused projection.

    The flag `fused_projections` stays set after `unfuse_qkv_projections`; the processor tells.
    """
    return isinstance(attention.processor, FusedAttnProcessor2_0)


def hookable(pipe: Any, denoiser: nn.Module | None = None) -> tuple[Site, ...]:
    """The cross-attention layers, or an error if hooks on them would be ignored or mislead.

    They are those of the UNet, or of a ControlNet beside it that is given as `denoiser`.

    Example:
        >>> [site.name for site in hookable(pipe)]
        ['down.0.0', ..., 'mid.0', ..., 'up.1.0', ...]

    Raises:
        InterpError: for pipelines that `stock` refuses, a compiled UNet, processors that attend to
            more than the text or project it themselves, and normalised queries or keys.
    """
    pipe = stock(pipe)
    unet = denoising(pipe) if denoiser is None else denoiser
    if any(map(_compiled, unet.modules())):
        raise InterpError(
            f"Cannot hook the UNet of a {type(pipe).__name__}.",
            "It is compiled, and torch silently ignores hooks that are added after compiling.",
            "Use the pipeline before torch.compile (unet._orig_mod is the original module).",
        )
    known = family(unet)
    if known is not None:
        layers = tuple(
            Site(block.name, block.kind, index, block.heads, block.attention)
            for index, block in enumerate(known.blocks(unet))
        )
        for site in layers:
            kind = type(unet.get_submodule(site.path).processor).__name__
            if kind not in known.processors:
                raise InterpError(
                    f"Cannot hook layer {site.name}.",
                    f"It attends by a {kind}; those that are known are "
                    f"{', '.join(known.processors)}.",
                    "Use diffusers' own processors, without IP-Adapter.",
                )
        return layers
    layers = sites(unet)
    for site in layers:
        refused = _refused(unet.get_submodule(site.path))
        if refused is not None:
            raise InterpError(f"Cannot hook layer {site.name}.", *refused)
    return layers


def _compiled(module: nn.Module) -> bool:
    """Whether torch.compile(module), module.compile() or torch.compile(module.forward) was used."""
    forward = vars(module).get("forward")
    return (
        hasattr(module, "_orig_mod")
        or module._compiled_call_impl is not None
        or hasattr(forward, "_torchdynamo_orig_callable")
    )


def _refused(attention: Any) -> tuple[str, str] | None:
    """Why a layer's attention to the text can not be followed from outside, and what to use."""
    kind = type(attention.processor).__name__
    if isinstance(attention.processor, ADDED):
        return (
            f"Its {kind} attends to text and image at once, so attention to text alone does not "
            "sum to 1.",
            "Use a Stable Diffusion 1.x, 2.x or SDXL pipeline.",
        )
    if isinstance(attention.processor, CUSTOM):
        return (
            f"Its {kind} has key and value projections of its own, beside those of the layer.",
            "Use the model without Custom Diffusion weights.",
        )
    norms = ("norm_q", "norm_k", "norm_cross", "group_norm", "spatial_norm")
    present = [name for name in norms if getattr(attention, name, None)]
    if present:
        return (
            f"It normalises inside its attention ({', '.join(present)}), which is not modelled.",
            "Use a Stable Diffusion 1.x, 2.x or SDXL pipeline.",
        )
    return None
