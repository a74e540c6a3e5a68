"""Parts of a patch: what it does inside or outside a cell of layers, heads, steps and sides.

Causal tracing applies a patch in one cell (is the cell necessary?) or everywhere but in one cell
(is it sufficient?). Both are ordinary patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from interp.denoiser.layers import Site
from interp.patch import Patch, Where
from interp.patch.base import Operation
from interp.patch.where import Side


@dataclass(frozen=True)
class Cell:
    """A cell of the map: layers, steps (None: all), heads (None: all) and a side."""

    layers: frozenset[str]
    side: Side = "kv"
    heads: frozenset[int] | None = None
    steps: frozenset[int] | None = None

    def holds(self, site: Site, head: int, side: str) -> bool:
        """Whether this head's keys or values, at some step, lie in the cell."""
        here = site.name in self.layers and side in self.side
        return here and (self.heads is None or head in self.heads)


def inside(patch: Patch, cell: Cell, layers: Sequence[Site], calls: int) -> Patch:
    """The part of the patch inside the cell; the empty patch if there is none.

    Example:
        >>> inside(ip.zero("pad"), Cell(frozenset({"up.1.0"}), "v"), sites(unet), calls=50)
        zero('pad', heads={'up.1.0': (0, 1...)}, side='v')

    Args:
        layers: all cross-attention layers of the UNet.
        calls: the number of UNet calls in a run.
    """
    parts: list[Operation] = []
    for operation in patch.operations:
        steps = _steps(operation, cell, calls, within=True)
        parts += _placed(operation, layers, cell, steps, within=True)
    return Patch(tuple(parts))


def outside(patch: Patch, cell: Cell, layers: Sequence[Site], calls: int) -> Patch:
    """The part of the patch outside the cell.

    Example:
        >>> outside(ip.zero("pad"), Cell(frozenset({"up.1.0"}), "v"), sites(unet), calls=50)
    """
    parts: list[Operation] = []
    for operation in patch.operations:
        here = _steps(operation, cell, calls, within=True)
        parts += _placed(operation, layers, cell, here, within=False)
        elsewhere = _steps(operation, cell, calls, within=False)
        if elsewhere:
            parts.append(replace(operation, where=replace(operation.where, steps=elsewhere)))
    return Patch(tuple(parts))


def at_step(patch: Patch, step: int) -> Patch:
    """What the patch does at one step, as a patch that is not limited to steps.

    On the clean trajectory steps are independent, so rows of several steps can share a batch once
    their patches no longer depend on the step.
    """
    active = [o for o in patch.operations if o.where.at_step(step)]
    return Patch(tuple(replace(o, where=replace(o.where, steps=None)) for o in active))


def _steps(operation: Operation, cell: Cell, calls: int, within: bool) -> Sequence[int] | None:
    """The operation's steps inside (or outside) the cell; None is all, () none."""
    if cell.steps is None:
        return operation.where.steps if within else ()  # type: ignore[return-value]
    mine = [step for step in range(calls) if operation.where.at_step(step)]
    return tuple(step for step in mine if (step in cell.steps) == within)


def _placed(
    operation: Operation,
    layers: Sequence[Site],
    cell: Cell,
    steps: Sequence[int] | None,
    within: bool,
) -> list[Operation]:
    """The operation at its layers, heads and sides that are (or are not) the cell's."""
    if steps is not None and not len(steps):
        return []
    # Masking removes keys from the softmax: it concerns keys, whatever its side says.
    sides = "k" if operation.EDITS == "keys" else operation.where.side
    by_side: dict[str, dict[str, tuple[int, ...]]] = {}
    for site, heads in operation.where.heads_at(layers).items():
        for head in heads:
            kept = "".join(s for s in sides if cell.holds(site, head, s) == within)
            if kept:
                places = by_side.setdefault(kept, {})
                places[site.name] = (*places.get(site.name, ()), head)
    whole = operation.where.heads is None and cell.heads is None
    return [
        replace(
            operation,
            where=Where(
                # A transformer's operations are of whole layers.
                layers=tuple(places) if whole else None,
                steps=steps,  # type: ignore[arg-type]
                heads=None if whole else places,
                side=operation.where.side if kept == sides else kept,  # type: ignore[arg-type]
                uncond=operation.where.uncond,
            ),
        )
        for kept, places in by_side.items()
    ]
