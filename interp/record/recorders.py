"""What can be recorded of cross-attention: each recorder reduces the probabilities at once.

The attention maps of SD 1.4 take 66 MB per step in float16; their mass per token category takes
2 KB. Recorders are values: `mass`, `entropy` and `token_mass` are three of them; `maps(...)` makes
one that keeps space, which is why it is opt-in and subject to a memory budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from einops import einsum, rearrange, reduce
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional

from interp.denoiser.layers import Selector, Site, Span
from interp.errors import InterpError
from interp.results.axes import POSITION, SPACE


@dataclass(frozen=True, eq=False)
class LayerAttention:
    """The cross-attention of some rows at one layer in one step.

    Attributes:
        probabilities: float32, softmax over the key positions.
        category: the category code of every key position, -1 where unknown.
        members: the same, one-hot.
        size: height and width of the queries' grid.
    """

    site: Site
    probabilities: Float[Tensor, "row head query position"]
    category: Integer[Tensor, "row position"]
    members: Float[Tensor, "row position category"]
    size: tuple[int, int]

    @cached_property
    def mean(self) -> Float[Tensor, "row head position"]:
        """The probabilities averaged over queries."""
        return reduce(self.probabilities, "row head query position -> row head position", "mean")


@runtime_checkable
class Recorder(Protocol):
    """Anything that reduces a layer's attention to `[row, head, *dims]`, always of the same size.

    Attributes:
        name: the variable's name in the dataset.
        dims: the names of the axes after row and head.
        layers: where to record; None is everywhere.
    """

    @property
    def name(self) -> str: ...
    @property
    def dims(self) -> tuple[str, ...]: ...
    @property
    def layers(self) -> Selector: ...
    def __call__(self, seen: LayerAttention) -> Float[Tensor, "row head ..."]: ...


@dataclass(frozen=True)
class Mass:
    """Attention per token category, averaged over queries; sums to 1 over categories.

    Example:
        >>> run = sd.run(a, record=ip.mass)
        >>> run.mass / run.tokens        # per token: pads dominate sums by sheer number
    """

    name: str = "mass"
    dims: tuple[str, ...] = ("category",)
    layers: Selector = None

    def __call__(self, seen: LayerAttention) -> Float[Tensor, "row head category"]:
        return seen.mean @ seen.members


@dataclass(frozen=True)
class TokenMass:
    """Attention per position, averaged over queries; sums to 1 over positions.

    Example:
        >>> run = sd.run(a, record=ip.token_mass)
        >>> run.token_mass.isel(prompt=0).mean(["seed", "step", "layer", "head"])
    """

    name: str = "token_mass"
    dims: tuple[str, ...] = (POSITION,)
    layers: Selector = None

    def __call__(self, seen: LayerAttention) -> Float[Tensor, "row head position"]:
        return seen.mean


@dataclass(frozen=True)
class Entropy:
    """Entropy of each query's attention over positions, in nats, averaged over queries.

    Ren et al. (ECCV 2024) take the entropy of the averaged attention instead; compute that from
    `token_mass`.

    Example:
        >>> sd.run(a, record=ip.entropy).entropy.mean("head")
    """

    name: str = "entropy"
    dims: tuple[str, ...] = ()
    layers: Selector = None

    def __call__(self, seen: LayerAttention) -> Float[Tensor, "row head"]:
        nats = torch.special.entr(seen.probabilities)
        summed = reduce(nats, "row head query position -> row head query", "sum")
        return reduce(summed, "row head query -> row head", "mean")


@dataclass(frozen=True)
class Maps:
    """Spatial attention maps, per category or per position. Made by `maps`."""

    by: str = "category"
    size: tuple[int, int] | None = None
    layers: Selector = None

    @property
    def name(self) -> str:
        return "maps"

    @property
    def dims(self) -> tuple[str, ...]:
        return (self.by, *SPACE)

    def __call__(self, seen: LayerAttention) -> Float[Tensor, "row head key y x"]:
        maps = seen.probabilities
        if self.by == "category":
            maps = einsum(
                maps,
                seen.members,
                "row head query position, row position category -> row head query category",
            )
        height, width = seen.size
        pattern = "row head (y x) key -> row (head key) y x"
        maps = rearrange(maps, pattern, y=height, x=width)
        if self.size is not None and self.size != seen.size:
            # Antialiased bilinear weights sum to 1, so maps of all categories still do.
            maps = functional.interpolate(maps, self.size, mode="bilinear", antialias=True)
        heads = seen.site.heads
        return rearrange(maps, "row (head key) y x -> row head key y x", head=heads)


def distinct(recorders: Sequence[Any]) -> tuple[Recorder, ...]:
    """The recorders, checked to be recorders with distinct names.

    Example:
        >>> distinct((mass, entropy))

    Raises:
        InterpError: something is not a recorder, or two have the same name.
    """
    for recorder in recorders:
        if not isinstance(recorder, Recorder):
            raise InterpError(
                f"{recorder!r} was given as a recorder.",
                "Recorders are mass, entropy, token_mass, and whatever maps(...) returns.",
                "Pass one of them; maps must be called: maps(layers='up.1').",
            )
    names = [recorder.name for recorder in recorders]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InterpError(
            f"The recorders {', '.join(names)} were given.",
            f"Several of them would write the variable {', '.join(twice)}.",
            "Record them separately: with record(...) as a, record(...) as b.",
        )
    return tuple(recorders)


mass = Mass()
token_mass = TokenMass()
entropy = Entropy()


def maps(
    by: Literal["category", "position"] = "category",
    size: int | tuple[int, int] | None = None,
    layers: Selector = None,
) -> Maps:
    """A recorder of spatial attention maps: `maps(..., category or position, y, x)`.

    Example:
        >>> with record(pipe, maps(layers="up.1")) as log:
        ...     pipe("a photo of a goat")
        >>> log.dataset().maps.sel(category="pad").mean(["head", "step"])

    Args:
        by: one map per token category, or one per position.
        size: resample all layers to this height and width; None keeps the layers' own, which must
            then all be equal.
        layers: where to record (see `layers.select`).

    Memory grows with steps, layers, heads and pixels: `record` refuses to exceed its budget.
    """
    if by not in ("category", POSITION):
        raise InterpError(
            f"maps(by={by!r}) was asked for.",
            "Maps are kept by 'category' or by 'position'.",
            "Choose one of them.",
        )
    chosen: Selector = Span.of(layers) if isinstance(layers, slice) else layers
    if isinstance(chosen, Sequence) and not isinstance(chosen, str):
        chosen = tuple(chosen)
    return Maps(by, (size, size) if isinstance(size, int) else size, chosen)
