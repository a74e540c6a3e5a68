"""UNet calls that resume in the middle: what runs before a patched layer is cached, not rerun.

Rows that differ from a known run only at one layer are equal to it up to that layer. So one call is
cached, and in later calls the modules before the layer return their cached outputs, repeated for
all rows. Only whole modules without side effects are skipped (residual blocks, transformers,
resamplers); the UNet's own `forward` runs unchanged. Not for training: cached outputs have no
gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from einops import repeat
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from interp.denoiser.hooks import Hooks
from interp.denoiser.layers import Site

STATIONS = (ResnetBlock2D, Transformer2DModel, Downsample2D, Upsample2D)


@dataclass
class Memory:
    """The outputs of a UNet's skippable modules in one call, in the order in which they ran."""

    order: list[str] = field(default_factory=list)
    outputs: dict[str, Any] = field(default_factory=dict)

    def station(self, site: Site) -> int:
        """The number of the station that a layer is part of; a transformer has none to skip."""
        numbered = enumerate(self.order)
        return next((i for i, name in numbered if site.path.startswith(f"{name}.")), 0)


def stations(unet: nn.Module) -> dict[str, nn.Module]:
    """The modules that can be skipped; none is inside another.

    Example:
        >>> list(stations(pipe.unet))[:2]
        ['down_blocks.0.attentions.0', ...]
    """
    found: dict[str, nn.Module] = {}
    for name, module in unet.named_modules():
        if isinstance(module, STATIONS) and not any(
            name.startswith(f"{outer}.") for outer in found
        ):
            found[name] = module
    return found


@contextmanager
def remembering(unet: nn.Module) -> Iterator[Memory]:
    """Keep the outputs of the skippable modules in the next UNet call.

    Example:
        >>> with remembering(pipe.unet) as memory:
        ...     predict(sd, points, a.embeds)
    """
    memory = Memory()

    def keep(name: str, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        memory.order.append(name)
        memory.outputs[name] = _mapped(output, Tensor.detach)

    with Hooks() as hooks:
        for name, module in stations(unet).items():
            hooks.after(module, partial(keep, name))
        yield memory


@contextmanager
def resumed(unet: nn.Module, memory: Memory, first: int, copies: int) -> Iterator[None]:
    """Let UNet calls resume at module number `first`, with the cached rows repeated `copies` times.

    Example:
        >>> with resumed(pipe.unet, memory, memory.station(site), copies=2):
        ...     predict(sd, points, a.embeds, copies=2)
    """
    with ExitStack() as stack:
        for name in memory.order[:first]:
            stack.enter_context(_answering(unet.get_submodule(name), memory.outputs[name], copies))
        yield


@contextmanager
def _answering(module: nn.Module, output: Any, copies: int) -> Iterator[None]:
    """Make the module return this output, whatever its input."""
    missing = object()
    before = vars(module).get("forward", missing)

    def answer(*args: Any, **kwargs: Any) -> Any:
        return _mapped(output, lambda x: repeat(x, "row ... -> (copy row) ...", copy=copies))

    # On the instance, as diffusers' and accelerate's own hooks do: hooks cannot skip a forward.
    module.forward = answer  # type: ignore[method-assign]
    try:
        yield
    finally:
        if before is missing:
            del module.forward
        else:
            module.forward = before  # type: ignore[method-assign]


@dataclass
class Cost:
    """UNet rows spent; a call that resumes in the middle counts by its share of operations."""

    unet: nn.Module
    rows: float = 0.0
    flops: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Count the floating-point operations of every module in the next call, once."""
        if self.flops:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        root = type(self.unet).__name__
        counts = {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items()}
        self.flops = {
            name.removeprefix(f"{root}.") if name != root else "": count
            for name, count in counts.items()
        }

    def share(self, memory: Memory, first: int) -> float:
        """The fraction of a whole call that runs if it resumes at module number `first`."""
        skipped = sum(self.flops[name] for name in memory.order[:first])
        return 1 - skipped / self.flops[""]


def _mapped(output: Any, function: Any) -> Any:
    if isinstance(output, Tensor):
        return function(output)
    return tuple(_mapped(part, function) for part in output)
