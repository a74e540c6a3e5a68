"""The cross-attention layers of a UNet, in the order in which they run, under short names.

`named_modules()` lists down, up, mid; an axis in that order would make every figure over depth
wrong. Everything that names, counts or selects layers therefore goes through `sites` and `select`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from diffusers.models.attention_processor import Attention
from torch import nn

from interp.errors import InterpError

BLOCKS = ("down", "mid", "up")


@dataclass(frozen=True)
class Site:
    """One cross-attention layer: `down.0.0`, `mid.0`, `up.3.2`.

    Example:
        >>> Site(name="up.1.0", block="up", index=7, heads=8, path="up_blocks.1...attn2")

    `index` counts in execution order from 0; `path` is the module's name inside the UNet.
    """

    name: str
    block: str
    index: int
    heads: int
    path: str


@dataclass(frozen=True)
class Span:
    """A slice that can be hashed (Python's own can not before 3.12), for patches as values.

    Example:
        >>> Span.of(slice(-3, None))
        -3:
    """

    start: int | None = None
    stop: int | None = None
    step: int | None = None

    @classmethod
    def of(cls, piece: slice) -> Span:
        """The span that selects what the slice selects: `Span.of(slice(0, 10))`."""
        return cls(piece.start, piece.stop, piece.step)

    def slice(self) -> slice:
        """The slice again: `layers[span.slice()]`."""
        return slice(self.start, self.stop, self.step)

    def __repr__(self) -> str:
        ends = [self.start, self.stop] if self.step is None else [self.start, self.stop, self.step]
        return ":".join("" if end is None else str(end) for end in ends)


Selector = str | int | slice | Span | Site | Sequence[str | int | Site] | None


def sites(unet: nn.Module) -> tuple[Site, ...]:
    """Every cross-attention layer of a UNet in execution order: down, mid, up.

    Example:
        >>> [site.name for site in sites(pipe.unet)]
        ['down.0.0', ..., 'mid.0', ..., 'up.1.0', ...]

    Names count blocks as the UNet does and layers within a block from 0, so SD 1's first up block,
    which has no attention, makes `up.1.0` the first name there.

    Raises:
        InterpError: if the UNet has no cross-attention.
    """
    found = []
    for path, module in unet.named_modules():
        if isinstance(module, Attention) and module.is_cross_attention:
            block, place = _place(path)
            numbers = tuple(int(part) for part in path.split(".") if part.isdigit())
            found.append((BLOCKS.index(block), numbers, block, place, path, module.heads))
    # Stably by the numbers in their paths: ControlNet-XS runs a base and a control layer in turn,
    # and has a list of each.
    found.sort(key=lambda item: item[:2])
    if not found:
        raise InterpError(
            f"The cross-attention layers of a {type(unet).__name__} were asked for.",
            "It has none.",
            "Pass the UNet of a text-conditioned Stable Diffusion 1.x, 2.x or SDXL pipeline.",
        )
    counts: dict[str, int] = {}
    result = []
    for index, (_, _, block, place, path, heads) in enumerate(found):
        prefix = "mid" if block == "mid" else f"{block}.{place}"
        counts[prefix] = counts.get(prefix, -1) + 1
        result.append(Site(f"{prefix}.{counts[prefix]}", block, index, heads, path))
    return tuple(result)


def select(layers: Sequence[Site], selector: Selector = None) -> tuple[Site, ...]:
    """The layers that a selector names, in execution order, each once.

    Example:
        >>> select(sites(unet), "up")                 # a block; also "up.1", "up.1.0"
        >>> select(sites(unet), "(down|up).*0")       # a regular expression for the whole name
        >>> select(sites(unet), slice(-3, None))      # also 5, [0, 5], ["mid", "up.1"]
        >>> select(sites(unet), "all")                # or None

    Raises:
        InterpError: if any part of the selector matches nothing.
    """
    if selector is None or selector == "all":
        return tuple(layers)
    chosen = set(_indices(layers, selector))
    return tuple(site for position, site in enumerate(layers) if position in chosen)


def _place(path: str) -> tuple[str, int]:
    """Block and block number of a module path: `up_blocks.1.attentions...` is ("up", 1)."""
    head, *rest = path.split(".")
    block = head.split("_")[0]
    if block not in BLOCKS:
        raise InterpError(
            f"Cannot name the cross-attention layer {path!r}.",
            "Layers are named after down_blocks, mid_block and up_blocks.",
            "Pass a UNet2DConditionModel.",
        )
    return block, 0 if block == "mid" else int(rest[0])


def _indices(layers: Sequence[Site], selector: Selector) -> Iterable[int]:
    if isinstance(selector, (slice, Span)):
        piece = selector.slice() if isinstance(selector, Span) else selector
        positions = list(range(len(layers))[piece])
        return positions or _nothing(layers, selector)
    if isinstance(selector, Site):
        selector = selector.name
    if isinstance(selector, str):
        names = [site.name for site in layers]
        exact = [i for i, n in enumerate(names) if n == selector or n.startswith(selector + ".")]
        return exact or _matching(layers, selector)
    if isinstance(selector, Sequence):
        return [i for part in selector for i in _indices(layers, part)] or _nothing(
            layers, selector
        )
    if type(selector) is int and -len(layers) <= selector < len(layers):
        return [selector % len(layers)]
    return _nothing(layers, selector)


def _matching(layers: Sequence[Site], pattern: str) -> list[int]:
    try:
        compiled = re.compile(pattern)
    except re.error:
        return _nothing(layers, pattern)
    matches = [i for i, site in enumerate(layers) if compiled.fullmatch(site.name)]
    return matches or _nothing(layers, pattern)


def _nothing(layers: Sequence[Site], selector: object) -> list[int]:
    names = [site.name for site in layers]
    raise InterpError(
        f"layers={selector!r} selects none of the {len(names)} cross-attention layers.",
        f"They are, in execution order: {', '.join(names)}.",
        "Select by block ('up'), name ('up.1', 'mid.0'), regular expression, integer or slice.",
    )
