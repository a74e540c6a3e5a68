"""Where a patch applies: layers, steps, heads, keys or values, conditional or unconditional rows.

A `Where` is a value: it can be hashed, printed and written as JSON. Layers and heads are checked
when the patch is applied to a UNet.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from interp.denoiser.layers import Selector, Site, Span, select
from interp.errors import InterpError
from interp.results.numbers import whole

Steps = int | range | slice | Sequence[int] | None
Side = Literal["k", "v", "kv"]
Uncond = bool | Literal["only"]
FOREVER = sys.maxsize


@dataclass(frozen=True, repr=False)
class HeadsByLayer:
    """Heads per layer selector, as a dictionary that can be hashed."""

    items: tuple[tuple[str, tuple[int, ...]], ...]

    def __repr__(self) -> str:
        return repr(dict(self.items))


Heads = int | Sequence[int] | Mapping[str, int | Sequence[int]] | HeadsByLayer | None


@dataclass(frozen=True, repr=False)
class Where:
    """The layers, steps, heads, side and rows of one operation.

    Example:
        >>> Where(layers="up", steps=slice(0, 10), heads=[0, 3], side="k")
        layers='up', steps=0:10, heads=(0, 3), side='k'

    Attributes:
        layers: a selector (see `layers.select`); None is all.
        steps: UNet calls of a run, counted from 0: an int, several, a slice or a range.
        heads: head numbers, or {layer selector: head numbers} if layers differ; None is all.
        side: "k" patches where the model attends, "v" what it reads there, "kv" both.
        uncond: False for conditional rows, True for both, "only" for unconditional ones.

    Raises:
        InterpError: the side, row, step or head can not exist.
    """

    layers: Selector = None
    steps: Steps = None
    heads: Heads = None
    side: Side = "kv"
    uncond: Uncond = False

    def __post_init__(self) -> None:
        for name, value, known in (
            ("side", self.side, get_args(Side)),
            ("uncond", self.uncond, (False, True, "only")),
        ):
            if value not in known:
                raise InterpError(
                    f"A patch was asked for with {name}={value!r}.",
                    f"{name} is one of {', '.join(map(repr, known))}.",
                    "Choose one of them.",
                )
        # A frozen dataclass can only be normalised through object.
        object.__setattr__(self, "layers", _layers(self.layers))
        object.__setattr__(self, "steps", _steps(self.steps))
        object.__setattr__(self, "heads", _heads(self.heads))

    @property
    def everywhere(self) -> bool:
        """Whether it covers all layers, steps, heads, keys and values, so edits the embeddings."""
        return (self.layers, self.steps, self.heads, self.side) == (None, None, None, "kv")

    def at_step(self, step: int) -> bool:
        """Whether it applies to this UNet call."""
        return self.steps is None or step in self.steps  # type: ignore[operator]

    def on_row(self, unconditional: bool) -> bool:
        """Whether it applies to rows of this kind."""
        return self.uncond is True or (self.uncond == "only") == unconditional

    def heads_at(self, layers: Sequence[Site]) -> dict[Site, tuple[int, ...]]:
        """The heads where it applies, by layer.

        Raises:
            InterpError: a layer or head does not exist.
        """
        chosen = select(layers, self.layers)
        if isinstance(self.heads, HeadsByLayer):
            return self._per_layer(layers, chosen, self.heads)
        wanted = self.heads if isinstance(self.heads, tuple) else None
        return {
            site: _existing(site, range(site.heads) if wanted is None else wanted)
            for site in chosen
        }

    def _per_layer(
        self, layers: Sequence[Site], chosen: Sequence[Site], heads: HeadsByLayer
    ) -> dict[Site, tuple[int, ...]]:
        found: dict[Site, tuple[int, ...]] = {}
        for selector, numbers in heads.items:
            for site in select(layers, selector):
                if site in chosen:
                    found[site] = tuple(sorted({*found.get(site, ()), *_existing(site, numbers)}))
        if not found:
            raise InterpError(
                f"A patch was asked for at {self!r}.",
                "heads= names layers that layers= does not select.",
                "Leave out layers=: the keys of heads= already name the layers.",
            )
        return found

    def __repr__(self) -> str:
        return self.text(Where())

    def text(self, usual: Where) -> str:
        """What differs from the usual place, as arguments: `layers='up', steps=0:10`."""
        parts = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value != getattr(usual, field.name):
                shown = _slice_text(value) if isinstance(value, range) else repr(value)
                parts.append(f"{field.name}={shown}")
        return ", ".join(parts)


def _layers(layers: Selector) -> Selector:
    if layers == "all":
        return None
    if isinstance(layers, slice):
        return Span.of(layers)
    if isinstance(layers, Site):
        return layers.name
    if isinstance(layers, Sequence) and not isinstance(layers, str):
        return tuple(part.name if isinstance(part, Site) else part for part in layers)
    return layers


def _steps(steps: Steps) -> range | tuple[int, ...] | None:
    if steps is None or (isinstance(steps, str) and steps == "all"):
        return None
    if isinstance(steps, slice):
        steps = range(
            steps.start or 0, FOREVER if steps.stop is None else steps.stop, steps.step or 1
        )
    chosen = steps if isinstance(steps, range) else _sorted(steps, "steps")
    negative = (
        chosen.start < 0 or chosen.stop < 0
        if isinstance(chosen, range)
        else any(step < 0 for step in chosen)
    )
    if negative or len(chosen) == 0:
        raise InterpError(
            f"A patch was asked for at steps={steps!r}.",
            "Steps are UNet calls, counted from 0; a patch does not know how many there will be.",
            "Pass at least one step, counted from the start, such as slice(40, 50).",
        )
    return chosen


def _heads(heads: Heads) -> tuple[int, ...] | HeadsByLayer | None:
    if heads is None or isinstance(heads, HeadsByLayer):
        return heads
    if isinstance(heads, Mapping):
        return HeadsByLayer(tuple((str(k), _heads(v)) for k, v in heads.items()))  # type: ignore[misc]
    chosen = _sorted(heads, "heads")
    if not chosen:
        raise InterpError(
            "A patch was given an empty list of heads.",
            "Without heads it would change nothing.",
            "Name heads, or leave heads=None for all.",
        )
    return chosen


def _sorted(numbers: Any, name: str) -> tuple[int, ...]:
    """One or several numbers, sorted, without repetition."""
    return tuple(sorted(set(whole(numbers, name))))


def _existing(site: Site, heads: Sequence[int]) -> tuple[int, ...]:
    missing = [head for head in heads if not 0 <= head < site.heads]
    if missing:
        raise InterpError(
            f"Heads {missing} of layer {site.name} were asked for.",
            f"It has {site.heads} heads, 0 to {site.heads - 1}.",
            "Choose among them; if layers differ, pass {layer: heads}.",
        )
    return tuple(heads)


def _slice_text(steps: range) -> str:
    stop = "" if steps.stop == FOREVER else str(steps.stop)
    return f"{steps.start}:{stop}" + (f":{steps.step}" if steps.step != 1 else "")
