"""Direct effects: the value of many patches at points of the clean trajectory, cheaply.

Each patch takes one conditional row per point, since the latents and the unconditional prediction
are known. Patches that start at the same layer share a batch, which resumes the UNet there. Not for
total effects, where a patched run follows its own latents: use `Session.run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from interp.attribute.points import Points, chunks, predict, rows_at_once
from interp.attribute.resume import Cost, Memory, remembering, resumed
from interp.attribute.values import NoiseValue
from interp.denoiser.hooks import hookable
from interp.denoiser.pipelines import denoiser
from interp.patch import Patch, apply
from interp.session import Session

COPIES = 8
"""Most patches in one batch: more would leave room for few points, and the start of the UNet would
be rerun too often."""
NOTHING = Patch()


@dataclass(frozen=True)
class Intervention:
    """A patch to evaluate, and a base patch that does the same before the given layers."""

    patch: Patch
    base: Patch = NOTHING
    layers: frozenset[str] = frozenset()


@torch.no_grad()
def evaluate(
    session: Session, points: Points, asks: Sequence[Intervention], value: NoiseValue, cost: Cost
) -> tuple[Float[Tensor, "ask row"], dict[Patch, Float[Tensor, " row"]]]:
    """The value of every patch at every point.

    Example:
        >>> pads = Intervention(ip.zero("pad"), layers=frozenset({"up.1.0"}))
        >>> evaluate(sd, points, [pads], value, cost)

    Args:
        points: where to evaluate; the patches must not be limited to steps.
        asks: the patches. One that equals its base costs nothing.
        value: a function of the predictions.
        cost: is increased by what was spent.

    Returns:
        The values, and those of the bases, on the CPU.
    """
    most = rows_at_once(session)
    values = torch.empty(len(asks), len(points))
    bases = {ask.base: torch.empty(len(points)) for ask in asks}
    for rows in chunks(len(points), max(1, most // min(len(asks), COPIES))):
        part = points[rows]
        for base, known in bases.items():
            mine = [number for number, ask in enumerate(asks) if ask.base == base]
            memory, known[rows] = _remember(session, part, base, value, cost)
            values[mine, rows.start : rows.stop] = known[rows]
            for first, group in _by_station(session, asks, mine, memory).items():
                for piece in chunks(len(group), max(1, most // len(part))):
                    numbers = [group[place] for place in piece]
                    patched = [(points.prompt, asks[number].patch) for number in numbers]
                    with (
                        resumed(denoiser(session.pipe), memory, first, len(numbers)),
                        apply(session.pipe, patched, guided=False, strict=False),
                    ):
                        eps_c = predict(session, part, points.prompt.embeds, len(numbers))
                    eps_u = repeat(part.eps_u, "row ... -> (ask row) ...", ask=len(numbers))
                    cost.rows += len(eps_c) * cost.share(memory, first)
                    found = value.at(eps_c, eps_u).cpu()
                    values[numbers, rows.start : rows.stop] = rearrange(
                        found, "(ask row) -> ask row", ask=len(numbers)
                    )
    return values, bases


def _remember(
    session: Session, part: Points, base: Patch, value: NoiseValue, cost: Cost
) -> tuple[Memory, Float[Tensor, " row"]]:
    """Run the base once, from start to end."""
    with (
        apply(session.pipe, [(part.prompt, base)], guided=False),
        remembering(denoiser(session.pipe)) as memory,
        cost.measuring(),
    ):
        eps_c = predict(session, part, part.prompt.embeds)
    cost.rows += len(part)
    return memory, value.at(eps_c, part.eps_u).cpu()


def _by_station(
    session: Session, asks: Sequence[Intervention], numbers: Sequence[int], memory: Memory
) -> dict[int, list[int]]:
    """The asks that differ from their base, by the station at which they begin to."""
    station = {site.name: memory.station(site) for site in hookable(session.pipe)}
    groups: dict[int, list[int]] = {}
    for number in numbers:
        ask = asks[number]
        if ask.patch != ask.base:
            groups.setdefault(min(station[name] for name in ask.layers), []).append(number)
    return groups
