"""Direct effects: the value of many patches at points of the clean trajectory, at little cost.

A patch is asked for one conditional row at each point: the latents and the unconditional prediction
are known. Patches that begin at the same layer share a batch, which begins at that layer too. Not
for total effects, where a patched run follows latents of its own: those are `Session.run`.
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
"""Patches that share a batch with the same points, at most: more would leave room for few points,
and then the start of the UNet would be run again and again."""


NOTHING = Patch()


@dataclass(frozen=True)
class Ask:
    """A patch to evaluate, and a patch to which it is equal before the layers named."""

    patch: Patch
    base: Patch = NOTHING
    layers: frozenset[str] = frozenset()


@torch.no_grad()
def evaluate(
    session: Session, points: Points, asks: Sequence[Ask], value: NoiseValue, cost: Cost
) -> tuple[Float[Tensor, "ask row"], dict[Patch, Float[Tensor, " row"]]]:
    """The value of every patch at every point.

    Example:
        >>> evaluate(sd, points, [Ask(ip.zero("pad"), layers=frozenset({"up.1.0"}))], value, cost)

    Args:
        points: rows at which the patches are the same: patches must not ask for steps.
        asks: the patches. An ask that equals its base costs nothing.
        value: of the predictions.
        cost: what was spent is added to it.

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
    """Run the base once, whole."""
    with (
        apply(session.pipe, [(part.prompt, base)], guided=False),
        remembering(denoiser(session.pipe)) as memory,
        cost.measuring(),
    ):
        eps_c = predict(session, part, part.prompt.embeds)
    cost.rows += len(part)
    return memory, value.at(eps_c, part.eps_u).cpu()


def _by_station(
    session: Session, asks: Sequence[Ask], numbers: Sequence[int], memory: Memory
) -> dict[int, list[int]]:
    """The asks that differ from their base, by the station at which they begin to."""
    station = {site.name: memory.station(site) for site in hookable(session.pipe)}
    groups: dict[int, list[int]] = {}
    for number in numbers:
        ask = asks[number]
        if ask.patch != ask.base:
            groups.setdefault(min(station[name] for name in ask.layers), []).append(number)
    return groups
