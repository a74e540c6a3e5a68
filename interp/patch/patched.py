"""The hooks through which patches reach the layers of one denoiser: a UNet or a ControlNet.

Edits are made once per call of the denoiser and shared by its layers. Where all heads, keys and
values of a layer are patched alike, the layer is given edited embeddings; elsewhere a projection is
repeated on edited embeddings, for the patched heads alone. An operation counts as having touched
something when what carries it ran, not when it was planned.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any
from weakref import ref

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.denoiser.batch import BatchRows
from interp.denoiser.exchanged import must_be_there
from interp.denoiser.hooks import PATCHED, Hooks, is_fused, patched
from interp.denoiser.layers import Site
from interp.denoiser.processors import deviation, is_stock, must_follow
from interp.errors import InterpError
from interp.patch.at import At
from interp.patch.guidance import Guidance
from interp.patch.plan import SIDES, LayerPlan, RowEdits, plan_layer
from interp.patch.serialise import dump
from interp.text.prompt import Prompt
from interp.text.repad import repad

Text = Float[Tensor, "row position channel"]


class PatchedDenoiser:
    """The hooks on one denoiser, shared by all patches that are on it.

    Only these hooks hold it, so that it goes when its denoiser does.
    """

    def __init__(self, denoiser: nn.Module, layers: Sequence[Site]) -> None:
        self.denoiser = denoiser
        self.applied: list[tuple[Any, At]] = []
        self._hooks = Hooks()
        self._layers = {site: denoiser.get_submodule(site.path) for site in layers}
        self._projections: dict[tuple[Site, str], tuple[nn.Module, Hooks]] = {}
        self._rows: list[BatchRows | None] = []
        self._given: Text = torch.empty(0, 0, 0)
        self._plans: dict[tuple, LayerPlan] = {}
        self._running: dict[Site, tuple[LayerPlan, Text]] = {}
        self._edited: dict[RowEdits, tuple[Text, Text]] = {}
        self._repadded: dict[tuple, tuple[Tensor, Prompt]] = {}
        self._counted: set[tuple] = set()
        PATCHED[denoiser] = ref(self)
        for site, layer in self._layers.items():
            self._hooks.before(layer, partial(self._before, site))
            self._hooks.after(layer, partial(self._check, site))
        self._hooks.after(denoiser, Guidance(self.applied).mix)

    @classmethod
    def of(cls, denoiser: nn.Module, layers: Sequence[Site]) -> PatchedDenoiser:
        """The hooks on a denoiser, new ones if it has none."""
        return patched(denoiser) or cls(denoiser, layers)

    def add(self, owner: Any, at: At, hooks: Hooks) -> None:
        """Put patches on, until their hooks are closed; the last to go takes all hooks with it."""
        self.applied.append((owner, at))
        hooks.callback(self._discard, at)
        hooks.before(self.denoiser, self._begin)

    def patches(self) -> list[str]:
        """What is on, as JSON, for provenance."""
        return [dump(owner.operations) for owner, _ in self.applied]

    def _discard(self, at: At) -> None:
        self.applied.remove(next(one for one in self.applied if one[1] is at))
        self._forget()
        if not self.applied:
            self._hooks.close()
            for _, hooks in self._projections.values():
                hooks.close()
            PATCHED.pop(self.denoiser, None)

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """A call begins: edits are made anew, and plans if the rows are others."""
        checkpointing = (
            getattr(part, "gradient_checkpointing", False) for part in module.modules()
        )
        if torch.is_grad_enabled() and any(checkpointing):
            raise InterpError(
                f"A patched {type(module).__name__} was called under gradient checkpointing.",
                "The backward pass runs its layers again, when the patch is at another step.",
                "Call disable_gradient_checkpointing() on it, or use torch.no_grad().",
            )
        must_be_there(module, self._layers)
        self._given = kwargs["encoder_hidden_states"] if len(args) < 3 else args[2]
        self._edited.clear()
        rows = [at.reader.rows for _, at in self.applied]
        if rows != self._rows:
            self._forget()
            self._rows = rows

    def _forget(self) -> None:
        for known in (self._plans, self._running, self._edited, self._repadded, self._counted):
            known.clear()
        self._rows = []

    def _before(self, site: Site, attention: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Before a layer runs: give it edited embeddings, watch its projections, mask its keys."""
        given = kwargs["encoder_hidden_states"]
        # IP-Adapter passes (text, images); the images are left alone.
        text, *images = given if isinstance(given, tuple) else (given,)
        active = tuple(
            operation.where.at_step(at.clock.step)
            for _, at in self.applied
            for operation in at.heads
        )
        if (site, active) not in self._plans:
            self._plans[site, active] = self._plan(site, attention, text.device)
        plan = self._plans[site, active]
        self._running[site] = (plan, text)
        changed = dict(kwargs)
        if plan.embeds is not None:
            edited = self._edit(text, plan.embeds)
            changed["encoder_hidden_states"] = (edited, *images) if images else edited
            self._touch(plan, "embeddings")
        if plan.projected or plan.silent is not None:
            names = {"to_kv": SIDES} if is_fused(attention) else {"to_k": ("k",), "to_v": ("v",)}
            for name, sides in names.items():
                self._follow(site, name, getattr(attention, name), sides)
        if plan.masked is not None:
            mask = kwargs.get("attention_mask")
            changed["attention_mask"] = _bias(plan.masked, mask, attention, args[0])
            self._touch(plan, "keys")
        return args, changed

    def _check(self, site: Site, attention: Any, args: tuple, kwargs: dict, output: Any) -> None:
        """After a layer ran: whether it took up what it was given."""
        plan, _ = self._running[site]
        if is_stock(attention):
            return
        if plan.projected or plan.masked is not None or plan.silent is not None:
            must_follow(site, attention, args, kwargs, output)
        elif plan.embeds is not None and deviation(attention, args, kwargs, output) > 1e-2:
            warnings.warn(
                f"The patched embeddings were given to a {type(attention.processor).__name__}, "
                "which does more than attend to them.",
                stacklevel=2,
            )

    def _plan(self, site: Site, attention: Any, device: torch.device) -> LayerPlan:
        by_patch = [at.edits(site) for _, at in self.applied]
        rows = tuple(tuple(chain.from_iterable(row)) for row in zip(*by_patch, strict=True))
        heads = {
            o: there[site]
            for _, at in self.applied
            for o, there in at.heads.items()
            if site in there
        }
        return plan_layer(site, rows, heads, attention.inner_kv_dim, device)

    def _touch(self, plan: LayerPlan, edits: str, sides: tuple[str, ...] = SIDES) -> None:
        """Operations of this kind were carried out in a layer."""
        if (id(plan), edits, sides) in self._counted:
            return
        self._counted.add((id(plan), edits, sides))
        for operation, prompt in chain.from_iterable(plan.rows):
            if edits != operation.EDITS or not set(operation.where.side) & set(sides):
                continue
            for _, at in self.applied:
                new = operation in at.heads and operation not in at.touched
                if new and bool(operation.positions(prompt).any()):
                    at.touched.add(operation)

    def _edit(self, text: Text, rows: RowEdits) -> Text:
        """The edited embeddings, made once per call, because all layers are given one text."""
        known, made = self._edited.get(rows, (None, text))
        if known is not text:
            # Some denoisers project the text for all layers first: the patch comes before that.
            kind = getattr(self.denoiser.config, "encoder_hid_dim_type", None)
            projected = kind == "text_proj"
            new = []
            for number, edits in enumerate(rows):
                original = row = (self._given if projected else text)[number]
                for operation, prompt in edits:
                    row = operation.edit(row, prompt, partial(self._reencode, original))
                new.append(row)
            made = torch.stack(new)
            made = self.denoiser.get_submodule("encoder_hid_proj")(made) if projected else made
            self._edited[rows] = (text, made)
        return made

    def _reencode(self, row: Tensor, prompt: Prompt, token: str | int) -> Prompt:
        """The prompt with other pads, encoded as this row was, once per batch."""
        # By prompt, not by its ids: SDXL's zeros have those of the empty prompt.
        known = self._repadded.get((prompt, token))
        if known is None or not torch.equal(known[0], row):
            owner, _ = self.applied[0]
            known = (row, repad(owner.pipe, prompt, token, row))
            self._repadded[prompt, token] = known
        return known[1]

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
        plan, text = self._running.get(site, (None, output))
        if plan is None or not (plan.projected or plan.silent is not None):
            return None
        pattern = "row position (side head channel) -> side row position head channel"
        sizes = {"side": len(sides), "head": site.heads}
        parts = list(rearrange(output, pattern, **sizes))
        for number, side in enumerate(sides):
            for rows, chosen in plan.projected.get(side, ()):
                # forward, not call: hooks on the projection are for the layer's own text.
                again = rearrange(module.forward(self._edit(text, rows)), pattern, **sizes)[number]
                parts[number] = torch.where(chosen, again, parts[number])
            if side == "v" and plan.silent is not None:
                parts[number] = parts[number].masked_fill(plan.silent, 0)
                self._touch(plan, "values")
        self._touch(plan, "embeddings", sides)
        back = "side row position head channel -> row position (side head channel)"
        return rearrange(parts, back)


def _bias(
    masked: Bool[Tensor, "row position head 1"],
    given: Tensor | None,
    attention: Any,
    hidden: Float[Tensor, "row query channel"],
) -> Float[Tensor, "rowhead 1 position"]:
    """The layer's additive mask, per row and head, with the masked keys at minus infinity."""
    bias = torch.zeros(masked.shape, dtype=hidden.dtype, device=hidden.device)
    bias = rearrange(
        bias.masked_fill(masked, float("-inf")), "row position head 1 -> (row head) 1 position"
    )
    if given is None:
        return bias
    return bias + attention.prepare_attention_mask(given, masked.shape[1], len(masked))
