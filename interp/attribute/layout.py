"""The cells of a causal map: their labels on every axis, and the patch of each cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from interp.attribute.cells import Cell, inside, outside
from interp.attribute.points import chosen_steps
from interp.denoiser.hooks import hookable
from interp.denoiser.layers import Selector, Site, select
from interp.denoiser.unet_call import calls_per_run
from interp.errors import InterpError
from interp.patch import Patch
from interp.patch.where import Side, Steps
from interp.session import Session
from interp.transformer.family import family

AXES = ("direction", "patch", "side", "prompt", "seed", "step", "layer", "head")


class Layout:
    """The cells of a trace, as labels and as patches."""

    def __init__(
        self,
        session: Session,
        names: Sequence[str] | None,
        patches: Sequence[Patch],
        layers: Selector,
        steps: Steps | str,
        heads: Sequence[int] | str | None,
        side: Side | Sequence[Side],
        direction: str,
        window: tuple[int, int],
    ) -> None:
        self.every = hookable(session.pipe)
        self.calls = calls_per_run(session.pipe, session.steps)
        self.places = select(self.every, layers)
        self.steps = chosen_steps(steps, self.calls)
        self.window = window
        self.heads = _heads(heads, max(site.heads for site in self.places))
        self.sides = [side] if isinstance(side, str) else list(side)
        self.directions = ["necessary", "sufficient"] if direction == "both" else [direction]
        self.patches = dict(zip(names or ["patch"], patches, strict=True))
        self.named = {
            "direction": direction == "both",
            "patch": names is not None,
            "side": not isinstance(side, str),
            "head": heads is not None,
        }
        of = family(session.pipe)
        if of is not None and of.joint and "sufficient" in self.directions:
            raise InterpError(
                f"Cells of a {type(session.pipe).__name__} in direction {direction!r} were asked "
                "for.",
                "The text's stream goes from block to block: what a patch does before a block is "
                "still there inside it, so that no block alone keeps what the prompt has.",
                "Use direction='necessary'.",
            )
        known = set(self.directions) <= {"necessary", "sufficient"}
        if not known or min(window) < 1:
            raise InterpError(
                f"Cells in direction {direction!r}, with windows of {window[0]} layers and "
                f"{window[1]} steps, were asked for.",
                "Directions are 'necessary', 'sufficient' and 'both'; windows are at least 1.",
                "Choose one of them.",
            )

    def layers(self, site: Site) -> frozenset[str]:
        """The layers spanned by the cell around this one."""
        return frozenset(
            self.every[i].name for i in _around(site.index, len(self.every), self.window[0])
        )

    def span(self, column: int) -> list[int]:
        """The steps (by place) spanned by the cell around one of them."""
        return list(_around(column, len(self.steps), self.window[1]))

    def cell(self, side: Any, site: Site, head: int | None, steps: Sequence[int] | None) -> Cell:
        """The cell around a layer; None stands for all steps."""
        chosen = None if head is None else frozenset({head})
        return Cell(self.layers(site), side, chosen, None if steps is None else frozenset(steps))

    def apply(self, direction: str, patch: Patch, cell: Cell) -> Patch:
        """The patch of a cell in this direction."""
        part = inside if direction == "necessary" else outside
        return part(patch, cell, self.every, self.calls)

    def cells(self) -> list[tuple[int, int, int, int, int]]:
        """The indices (direction, patch, side, layer, head) of all existing cells."""
        found = product(
            range(len(self.directions)),
            range(len(self.patches)),
            range(len(self.sides)),
            range(len(self.places)),
            range(len(self.heads)),
        )
        return [cell for cell in found if (self.heads[cell[4]] or 0) < self.places[cell[3]].heads]

    def dataset(self, values: np.ndarray, prompts: int, seeds: Sequence[int]) -> xr.DataArray:
        """All cells on their axes, in the order of `AXES`."""
        labels = (
            self.directions,
            list(self.patches),
            self.sides,
            list(range(prompts)),
            list(seeds),
            self.steps,
            [site.name for site in self.places],
            [-1 if head is None else head for head in self.heads],
        )
        return xr.DataArray(values, dict(zip(AXES, labels, strict=True)), AXES)


def _heads(heads: Sequence[int] | str | None, most: int) -> list[int | None]:
    if heads is None:
        return [None]
    named = isinstance(heads, str)
    chosen = list(range(most)) if heads == "all" else [] if named else [int(h) for h in heads]
    if not chosen or not all(0 <= head < most for head in chosen):
        raise InterpError(
            f"heads={heads!r} were asked for.",
            f"The layers have up to {most} heads, counted from 0.",
            "Name some of them, heads='all', or None for all of them together.",
        )
    return list(chosen)


def _around(centre: int, count: int, width: int) -> range:
    """A window of `width` around an index, cut at the ends; if even, it reaches further right."""
    return range(max(0, centre - (width - 1) // 2), min(count, centre + width // 2 + 1))
