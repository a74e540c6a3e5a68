"""The hooks through which patches reach the layers of one denoiser: a UNet or a ControlNet.

Edits are made once per call of the denoiser and shared by its layers. Where all heads, keys and
values of a layer are patched alike, the layer receives edited embeddings; elsewhere a projection is
repeated on edited embeddings, and only the patched heads are kept. An operation counts as having
touched something when the layer that carries it out has run, not when it was planned.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any
from weakref import ref

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from interp.denoiser.batch import BatchRows
from interp.denoiser.exchanged import must_be_there
from interp.denoiser.hooks import PATCHED, Hooks, is_fused, patched
from interp.denoiser.layers import Site
from interp.denoiser.processors import deviation, is_stock, must_follow
from interp.errors import InterpError
from interp.patch.at import At
from interp.patch.attenuation import factors
from interp.patch.base import Operation
from interp.patch.guidance import Guidance
from interp.patch.plan import SIDES, LayerPlan, RowEdits, bias, plan_layer
from interp.patch.serialise import dump
from interp.text.prompt import Prompt
from interp.text.repad import repad

Text = Float[Tensor, "row position channel"]
_JOINED = "row position head channel -> row position (head channel)"


class Call(threading.local):
    """A call of the denoiser that is in progress in this thread.

    Pipelines that share a UNet may call it concurrently; each is affected only by its own patches.
    """

    def __init__(self) -> None:
        self.applied: list[tuple[Any, At]] = []
        self.guidance = Guidance()
        self.given: Text = torch.empty(0, 0, 0)
        self.batch: list[tuple[At, BatchRows | None]] = []
        self.plans: dict[tuple, LayerPlan] = {}
        self.running: dict[Site, tuple[LayerPlan, Text, Tensor]] = {}
        self.edited: dict[RowEdits, tuple[Text, Text]] = {}
        self.repadded: dict[tuple, tuple[Tensor, Prompt]] = {}
        self.counted: set[tuple] = set()

    def prepare(self) -> None:
        """Before the first layer: plans are kept between calls while patches and rows stay."""
        batch = [(at, at.reader.rows) for _, at in self.applied]
        if batch != self.batch:
            for known in (self.plans, self.running, self.repadded, self.counted):
                known.clear()
            self.batch = batch


class PatchedDenoiser:
    """The hooks on one denoiser, shared by all patches that are on it.

    Only the hooks refer to it, so it is freed together with its denoiser.
    """

    def __init__(self, denoiser: nn.Module, layers: Sequence[Site]) -> None:
        self.denoiser = denoiser
        self.applied: list[tuple[Any, At]] = []
        self._hooks = Hooks()
        self._layers = {site: denoiser.get_submodule(site.path) for site in layers}
        self._projections: dict[tuple[Site, str], tuple[nn.Module, Hooks]] = {}
        self._projecting = threading.Lock()
        self._call = Call()
        PATCHED[denoiser] = ref(self)
        self._watch()

    def _watch(self) -> None:
        """Hook the layers."""
        for site, layer in self._layers.items():
            self._hooks.before(layer, partial(self._before, site))
            self._hooks.after(layer, partial(self._check, site))
        self._hooks.after(self.denoiser, self._end, always=True)

    @classmethod
    def of(cls, denoiser: nn.Module, layers: Sequence[Site]) -> PatchedDenoiser:
        """The hooks on a denoiser, created if it has none."""
        return patched(denoiser) or cls(denoiser, layers)

    def add(self, owner: Any, at: At, hooks: Hooks) -> None:
        """Add patches until their hooks are closed; removing the last one removes all hooks."""
        self.applied.append((owner, at))
        hooks.callback(self._discard, at)
        hooks.before(self.denoiser, partial(self._begin, owner, at), of=owner.pipe)

    def on(self, pipe: Any) -> list[Any]:
        """The patches that are on a pipeline which runs this denoiser."""
        return [owner for owner, _ in self.applied if owner.pipe is pipe]

    def patches(self, pipe: Any) -> list[str]:
        """The same as JSON, for provenance."""
        return [dump(owner.operations) for owner in self.on(pipe)]

    def _discard(self, at: At) -> None:
        self.applied.remove(next(one for one in self.applied if one[1] is at))
        if not self.applied:
            self._hooks.close()
            for _, hooks in self._projections.values():
                hooks.close()
            PATCHED.pop(self.denoiser, None)

    def _begin(self, owner: Any, at: At, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """A call of a patched pipeline begins."""
        checkpointing = (
            getattr(part, "gradient_checkpointing", False) for part in module.modules()
        )
        if torch.is_grad_enabled() and any(checkpointing):
            raise InterpError(
                f"A patched {type(module).__name__} was called under gradient checkpointing.",
                "The backward pass reruns its layers when the patch is already at another step.",
                "Call disable_gradient_checkpointing() on it, or use torch.no_grad().",
            )
        must_be_there(module, self._layers)
        self._call.applied.append((owner, at))
        self._call.given = kwargs["encoder_hidden_states"] if len(args) < 3 else args[2]

    def _end(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        """A call is over, or has failed and gives no output."""
        call = self._call
        applied, call.applied = call.applied, []
        call.edited.clear()
        if not applied or output is None:
            return None
        return call.guidance.mix(module, applied, args, kwargs, output)

    def _before(self, site: Site, attention: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Before a layer runs: pass it edited embeddings, hook its projections, mask its keys."""
        call = self._call
        if not call.applied:
            return args, kwargs
        call.prepare()
        given = kwargs["encoder_hidden_states"]
        # IP-Adapter passes (text, images); the images are left alone.
        text, *images = given if isinstance(given, tuple) else (given,)
        active = tuple(
            operation.where.at_step(at.clock.step)
            for _, at in call.applied
            for operation in at.heads
        )
        if (site, active) not in call.plans:
            call.plans[site, active] = self._plan(site, attention, text.device)
        plan = call.plans[site, active]
        call.running[site] = (plan, text, args[0])
        changed = dict(kwargs)
        if plan.embeds is not None:
            edited = self._edit(text, plan.embeds)
            changed["encoder_hidden_states"] = (edited, *images) if images else edited
            self._touch(plan, "embeddings")
        if plan.projects:
            names = {"to_kv": SIDES} if is_fused(attention) else {"to_k": ("k",), "to_v": ("v",)}
            for name, sides in names.items():
                self._follow(site, name, getattr(attention, name), sides)
        if plan.masked is not None:
            mask = kwargs.get("attention_mask")
            changed["attention_mask"] = bias(plan.masked, mask, attention, args[0])
            self._touch(plan, "keys")
        return args, changed

    def _check(self, site: Site, attention: Any, args: tuple, kwargs: dict, output: Any) -> None:
        """After a layer ran: check that it used what it was given."""
        if is_stock(attention) or not self._call.applied:
            return
        plan = self._call.running[site][0]
        if plan.projects or plan.masked is not None:
            must_follow(site, attention, args, kwargs, output)
        elif plan.embeds is not None and deviation(attention, args, kwargs, output) > 1e-2:
            warnings.warn(
                f"The patched embeddings were passed to a {type(attention.processor).__name__}, "
                "which does more than attend to them.",
                stacklevel=2,
            )

    def _plan(self, site: Site, attention: Any, device: torch.device) -> LayerPlan:
        by_patch = [at.edits(site) for _, at in self._call.applied]
        rows = tuple(tuple(chain.from_iterable(row)) for row in zip(*by_patch, strict=True))
        return plan_layer(site, rows, self._heads(site), attention.inner_kv_dim, device)

    def _heads(self, site: Site) -> dict[Operation, tuple[int, ...]]:
        """Where in a layer each operation applies."""
        everywhere = [at.heads.items() for _, at in self._call.applied]
        return {o: there[site] for o, there in chain.from_iterable(everywhere) if site in there}

    def _touch(self, plan: LayerPlan, edits: str, sides: tuple[str, ...] = SIDES) -> None:
        """Note that operations of this kind were carried out in a layer."""
        if (id(plan), edits, sides) in self._call.counted:
            return
        self._call.counted.add((id(plan), edits, sides))
        for operation, prompt in chain.from_iterable(plan.rows):
            if edits != operation.EDITS or not set(operation.where.side) & set(sides):
                continue
            for _, at in self._call.applied:
                new = operation in at.heads and operation not in at.touched
                if new and bool(operation.positions(prompt).any()):
                    at.touched.add(operation)

    def _edit(self, text: Text, rows: RowEdits) -> Text:
        """The edited embeddings, made once per call, because all layers receive the same text."""
        known, made = self._call.edited.get(rows, (None, text))
        if known is not text:
            # Some denoisers first project the text for all layers: the patch comes before that.
            kind = getattr(self.denoiser.config, "encoder_hid_dim_type", None)
            projected = kind == "text_proj"
            new = []
            for number, edits in enumerate(rows):
                original = row = (self._call.given if projected else text)[number]
                for operation, prompt in edits:
                    row = operation.edit(row, prompt, partial(self._reencode, original))
                new.append(row)
            made = torch.stack(new)
            made = self.denoiser.get_submodule("encoder_hid_proj")(made) if projected else made
            self._call.edited[rows] = (text, made)
        return made

    def _reencode(self, row: Tensor, prompt: Prompt, token: str | int) -> Prompt:
        """The prompt with other pads, encoded the way this row was, once per batch."""
        # By prompt, not by ids: SDXL's zeros have the ids of the empty prompt.
        known = self._call.repadded.get((prompt, token))
        if known is None or not torch.equal(known[0], row):
            owner, _ = self._call.applied[0]
            known = (row, repad(owner.pipe, prompt, token, row))
            self._call.repadded[prompt, token] = known
        return known[1]

    def _follow(self, site: Site, name: str, module: nn.Module, sides: tuple[str, ...]) -> None:
        """Hook a projection, again if it was replaced in the meantime (LoRA and fusing do that)."""
        with self._projecting:
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
        """After a key or value projection ran: insert the results of the patched heads."""
        if not self._call.applied:
            return None
        plan, text, hidden = self._call.running[site]
        if not plan.projects:
            return None
        pattern = "row position (side head channel) -> side row position head channel"
        sizes = {"side": len(sides), "head": site.heads}
        parts = list(rearrange(output, pattern, **sizes))
        for number, side in enumerate(sides):
            for rows, chosen in plan.projected.get(side, ()):
                # forward, not call: hooks on the projection are meant for the layer's own text.
                again = rearrange(module.forward(self._edit(text, rows)), pattern, **sizes)[number]
                parts[number] = torch.where(chosen, again, parts[number])
            if side == "k" and plan.attenuates:
                attention: Any = self._layers[site]
                queries, keys = attention.to_q.forward(hidden), rearrange(parts[number], _JOINED)
                turned = factors(site, plan.rows, self._heads(site), queries, keys, attention.scale)
                parts[number] = parts[number] * turned.to(output)
                self._touch(plan, "logits")
            if side == "v" and plan.silent is not None:
                parts[number] = parts[number].masked_fill(plan.silent, 0)
                self._touch(plan, "values")
        self._touch(plan, "embeddings", sides)
        back = "side row position head channel -> row position (side head channel)"
        return rearrange(parts, back)
