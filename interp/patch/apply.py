"""The hooks of all patches on one UNet, and how edits reach its layers.

Several patches may be on one UNet at once; their operations are applied one after the other, in the
order in which they were attached, as `&` would. Edits are made once per UNet call and shared by the
layers. Where a layer's heads, keys and values are patched alike, it is given edited embeddings;
elsewhere a projection is repeated on edited embeddings, for the patched heads alone. Not for users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.denoiser.clock import Watch
from interp.denoiser.hooks import Hooks, is_fused
from interp.denoiser.layers import Site
from interp.errors import InterpError
from interp.patch.base import Operation
from interp.patch.neurons import Silence, silenced
from interp.patch.operations import Mask
from interp.text.prompt import Prompt

SIDES = ("k", "v")
Text = Float[Tensor, "row position channel"]


@runtime_checkable
class Owner(Protocol):
    """Whoever put operations on the board."""

    pipe: Any
    operations: tuple[Operation, ...]
    heads: dict[Operation, dict[Site, tuple[int, ...]]]
    touched: set[Operation]
    watch: Watch

    def edits(self, site: Site) -> list[tuple[Edit, ...]]: ...

    def reencode(self, prompt: Prompt, token: str | int) -> Prompt: ...


@dataclass(frozen=True)
class Edit:
    """One operation on one row."""

    operation: Operation
    prompt: Prompt
    owner: Owner

    def reaches(self, site: Site, head: int, side: str) -> bool:
        """Whether it edits what this head's keys or values are made of."""
        where = self.operation.where
        other = isinstance(self.operation, (Mask, Silence))
        return not other and side in where.side and head in self.owner.heads[self.operation][site]


Rows = tuple[tuple[Edit, ...], ...]


@dataclass(frozen=True)
class Plan:
    """What happens at one layer in one step.

    Attributes:
        embeds: edits of every row, if all heads, keys and values share them.
        groups: otherwise, per side, heads with common edits of every row.
        masked: the keys taken out of the softmax.
        silent: the outputs of the value projection that are put to zero.
    """

    embeds: Rows | None
    groups: dict[str, list[tuple[tuple[int, ...], Rows]]]
    masked: Bool[Tensor, "row head position"] | None
    silent: Bool[Tensor, "row position head inner"] | None


class Board:
    """The hooks on one UNet, shared by all patches that are on it."""

    def __init__(self, unet: nn.Module, layers: Sequence[Site]) -> None:
        self.unet = unet
        self.owners: list[Owner] = []
        self._hooks = Hooks()
        self._projections: dict[tuple[Site, str], tuple[nn.Module, Hooks]] = {}
        self._armed: dict[Site, dict[str, list[tuple[Text | None, Tensor]]]] = {}
        self._plans: dict[tuple, Plan] = {}
        self._shared: dict[Rows, Rows] = {}
        self._edited: dict[int, tuple[Text, Text]] = {}
        self._rows: list[Any] = []
        for site in layers:
            self._hooks.before(unet.get_submodule(site.path), partial(self._before, site))

    def enter(self, owner: Owner) -> None:
        """Apply these operations after those that are already on."""
        self.owners.append(owner)
        owner.watch.started.append(self._begin)

    def leave(self, owner: Owner) -> None:
        """Take them off; the last to leave takes the hooks with it."""
        self.owners.remove(owner)
        self._forget()
        if not self.owners:
            self._hooks.close()
            for _, hooks in self._projections.values():
                hooks.close()
            BOARDS.pop(self.unet, None)

    def _begin(self) -> None:
        """A UNet call begins: edits are made anew, and plans if the rows are others."""
        self._edited.clear()
        rows = [owner.watch.rows for owner in self.owners]
        same = len(rows) == len(self._rows) and all(
            new is old for new, old in zip(rows, self._rows, strict=True)
        )
        if not same:
            self._forget()
            self._rows = rows

    def _forget(self) -> None:
        self._plans.clear()
        self._shared.clear()
        self._edited.clear()
        self._rows = []

    def _before(self, site: Site, attention: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Before a layer runs: give it edited embeddings, arm its projections, mask its keys."""
        given = kwargs["encoder_hidden_states"]
        # IP-Adapter passes (text, images); the images are none of our business.
        text, *images = given if isinstance(given, tuple) else (given,)
        plan = self._plan(site, text)
        changed = dict(kwargs)
        if plan.embeds is not None:
            edited = self._edit(text, plan.embeds)
            changed["encoder_hidden_states"] = (edited, *images) if images else edited
        self._arm(site, attention, text, plan)
        if plan.masked is not None:
            mask = kwargs.get("attention_mask")
            changed["attention_mask"] = _bias(plan.masked, mask, attention, args[0])
        return args, changed

    def _plan(self, site: Site, text: Text) -> Plan:
        active = tuple(
            operation.where.at_step(owner.watch.step)
            for owner in self.owners
            for operation in owner.operations
        )
        if (site, active) not in self._plans:
            self._plans[site, active] = self._make_plan(site, text)
        return self._plans[site, active]

    def _make_plan(self, site: Site, text: Text) -> Plan:
        by_owner = [owner.edits(site) for owner in self.owners]
        rows = [
            tuple(edit for part in parts for edit in part) for parts in zip(*by_owner, strict=True)
        ]
        for edit in (edit for row in rows for edit in row):
            if bool(edit.operation.positions(edit.prompt).any()):
                edit.owner.touched.add(edit.operation)
        groups: dict[str, list[tuple[tuple[int, ...], Rows]]] = {}
        for side in SIDES:
            heads: dict[Rows, list[int]] = {}
            for head in range(site.heads):
                mine = tuple(
                    tuple(edit for edit in row if edit.reaches(site, head, side)) for row in rows
                )
                heads.setdefault(self._shared.setdefault(mine, mine), []).append(head)
            groups[side] = [(tuple(places), mine) for mine, places in heads.items() if any(mine)]
        attention: Any = self.unet.get_submodule(site.path)
        quiet = silenced(site, rows, attention.inner_kv_dim, text.device)
        alike = groups["k"] == groups["v"] and len(groups["k"]) == 1
        if alike and len(groups["k"][0][0]) == site.heads:
            return Plan(groups["k"][0][1], {}, _masked(site, rows, text), quiet)
        return Plan(None, groups, _masked(site, rows, text), quiet)

    def _edit(self, text: Text, rows: Rows) -> Text:
        """The edited embeddings, made once per UNet call, because all layers are given one text."""
        made = self._edited.get(id(rows))
        if made is None or made[0] is not text:
            new = []
            for row, edits in zip(text, rows, strict=True):
                for edit in edits:
                    row = edit.operation.edit(row, edit.prompt, edit.owner.reencode)
                new.append(row)
            made = self._edited[id(rows)] = (text, torch.stack(new))
        return made[1]

    def _arm(self, site: Site, attention: Any, text: Text, plan: Plan) -> None:
        """Lay out what the layer's key and value projections shall return."""
        self._armed[site] = {}
        for side, groups in plan.groups.items():
            for heads, rows in groups:
                kept = torch.zeros(len(rows), 1, site.heads, 1, dtype=torch.bool)
                kept[[row for row, edits in enumerate(rows) if edits]] = _one_hot(heads, site.heads)
                edited = self._edit(text, rows)
                self._armed[site].setdefault(side, []).append((edited, kept.to(text.device)))
        if plan.silent is not None:
            self._armed[site].setdefault("v", []).append((None, plan.silent))
        if self._armed[site]:
            names = {"to_kv": SIDES} if is_fused(attention) else {"to_k": ("k",), "to_v": ("v",)}
            for name, sides in names.items():
                self._follow(site, name, getattr(attention, name), sides)

    def _follow(self, site: Site, name: str, module: nn.Module, sides: tuple[str, ...]) -> None:
        """Hook a projection, again if it was replaced meanwhile (LoRA and fusing do that)."""
        known = self._projections.get((site, name))
        if known is not None and known[0] is module:
            return
        if known is not None:
            known[1].close()
        hooks = Hooks()
        hooks.after(module, partial(self._after, site, sides))
        self._projections[site, name] = (module, hooks)

    def _after(
        self,
        site: Site,
        sides: tuple[str, ...],
        module: nn.Module,
        args: tuple,
        kwargs: dict,
        output: Tensor,
    ) -> Tensor | None:
        """After a key or value projection ran: put the patched heads' results in."""
        armed = self._armed.get(site)
        if not armed:
            return None
        pattern = "row position (side head channel) -> side row position head channel"
        sizes = {"side": len(sides), "head": site.heads}
        parts = []
        for number, side in enumerate(sides):
            part = rearrange(output, pattern, **sizes)[number]
            for edited, kept in armed.get(side, ()):
                if edited is None:
                    part = part.masked_fill(kept, 0)
                    continue
                # forward, not call: hooks on the projection are for the layer's own text.
                again = rearrange(module.forward(edited), pattern, **sizes)[number]
                part = torch.where(kept, again, part)
            parts.append(part)
        back = "side row position head channel -> row position (side head channel)"
        return rearrange(parts, back)


BOARDS: WeakKeyDictionary[nn.Module, Board] = WeakKeyDictionary()
"""The board of every UNet that has patches on it now."""


def board(unet: nn.Module, layers: Sequence[Site]) -> Board:
    """The board of a UNet, made if it has none."""
    if unet not in BOARDS:
        BOARDS[unet] = Board(unet, layers)
    return BOARDS[unet]


def _one_hot(heads: Sequence[int], count: int) -> Bool[Tensor, "1 head 1"]:
    chosen = torch.zeros(1, count, 1, dtype=torch.bool)
    chosen[:, list(heads)] = True
    return chosen


def _masked(
    site: Site, rows: Sequence[tuple[Edit, ...]], text: Text
) -> Bool[Tensor, "row head position"] | None:
    masks = [(row, edit) for row, edits in enumerate(rows) for edit in edits]
    masks = [(row, edit) for row, edit in masks if isinstance(edit.operation, Mask)]
    if not masks:
        return None
    masked = torch.zeros(len(rows), site.heads, text.shape[1], dtype=torch.bool)
    for row, edit in masks:
        heads = list(edit.owner.heads[edit.operation][site])
        masked[row, heads] |= edit.operation.positions(edit.prompt).cpu()
    if bool(masked.all(dim=-1).any()):
        raise InterpError(
            f"{masks[0][1].operation!r} was asked for on {masks[0][1].prompt!r}.",
            "With it, some head would have no key left to attend to.",
            "Leave at least one category unmasked: 'sot' is always there.",
        )
    return masked.to(text.device)


def _bias(
    masked: Bool[Tensor, "row head position"],
    given: Tensor | None,
    attention: Any,
    hidden: Float[Tensor, "row query channel"],
) -> Float[Tensor, "rowhead 1 position"]:
    """The layer's additive mask, per row and head, with the masked keys at minus infinity."""
    bias = torch.zeros(masked.shape, dtype=hidden.dtype, device=hidden.device)
    bias = rearrange(bias.masked_fill(masked, float("-inf")), "row head key -> (row head) 1 key")
    if given is None:
        return bias
    return bias + attention.prepare_attention_mask(given, masked.shape[-1], len(masked))
