"""Patches on a running pipeline: the edits of each row of a batch, and how layers get them.

Several patches may be on one UNet; their operations follow one another in the order in which they
were applied, as `&` would. Edits are made once per UNet call and shared by the layers. Where all
heads, keys and values of a layer are patched alike, the layer is given edited embeddings;
elsewhere a projection is repeated on edited embeddings, for the patched heads alone. Use
`Patch.on`, `Patch.install` or `apply`, not this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.denoiser.batch import BatchRows, RowReader
from interp.denoiser.clock import StepClock
from interp.denoiser.hooks import PATCHED, Hooks, hookable, is_fused
from interp.denoiser.layers import Site
from interp.errors import InterpError
from interp.patch.base import Operation, must_touch
from interp.patch.guidance import Guidance
from interp.patch.plan import SIDES, LayerPlan, RowEdits, plan_layer
from interp.patch.serialise import dump
from interp.text.encoding import repad
from interp.text.prompt import Prompt

Text = Float[Tensor, "row position channel"]


class Applied:
    """Patches on a pipeline, until `remove`; knows the step and the rows of the UNet call.

    Example:
        >>> with ip.apply(pipe, [(a, ip.zero("pad")), (a, None)], guided=True) as applied:
        ...     applied.at(7)
        ...     pipe.unet(latents, timestep, encoder_hidden_states=embeds)

    Args:
        pipe: a Stable Diffusion 1.x, 2.x or SDXL pipeline.
        operations: for each conditional prompt, in order; or one entry for all.
        tokens: the conditional prompts; None recognises prompts that are given as text.

    Other arguments and errors as in `apply`.
    """

    def __init__(
        self,
        pipe: Any,
        operations: Sequence[tuple[Operation, ...]],
        tokens: Prompt | Sequence[Prompt] | None,
        negative: Prompt | Sequence[Prompt] | None,
        guided: bool | None,
        strict: bool,
    ) -> None:
        layers = hookable(pipe)
        self.pipe, self.strict = pipe, strict
        self._by_prompt = operations
        self.operations = tuple(dict.fromkeys(chain.from_iterable(operations)))
        # Asking for the heads now reports unknown layers and heads before anything runs.
        self.heads = {operation: operation.where.heads_at(layers) for operation in self.operations}
        self.touched: set[Operation] = set()
        self._hooks = Hooks()
        self.reader = RowReader(pipe, self._hooks, tokens, negative, guided)
        self.clock = StepClock(pipe, self._hooks)
        patched = PATCHED.get(pipe.unet) or PatchedDenoiser(pipe.unet, layers)
        patched.applied.append(self)
        self._hooks.callback(patched.discard, self)
        self._hooks.before(pipe.unet, patched.begin)

    def __enter__(self) -> Applied:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self.remove(check=kind is None)

    def restart(self) -> None:
        """The next UNet call is step 0 of a new run; pipeline calls are noticed without it."""
        self.clock.restart()

    def at(self, step: int | None) -> None:
        """All following UNet calls are this step, until `at(None)`."""
        self.clock.at(step)

    def remove(self, check: bool = True) -> None:
        """Take the patches off; removing twice is harmless.

        Raises:
            InterpError: if the UNet ran and an operation touched nothing (unless `check=False`).
        """
        self._hooks.close()
        if check and self.strict and self.clock.run >= 0:
            self.strict = False
            ran = f"{self.clock.run + 1} runs, the last of {self.clock.step + 1} steps"
            must_touch(self.operations, self.touched, ran)

    def on_image(self, image: int) -> tuple[Operation, ...]:
        """The operations on one image of the batch, whatever the step."""
        place = image // self.reader.batch.images
        return self._by_prompt[place if len(self._by_prompt) > 1 else 0]

    def edits(self, site: Site) -> RowEdits:
        """The operations on every row of the batch, at this layer in this step.

        Raises:
            InterpError: for operations on unconditional rows whose prompts are unknown.
        """
        rows = self.reader.batch
        found = []
        for row, prompt in enumerate(rows.prompts):
            unconditional = row < rows.uncond
            # An unconditional row goes with the conditional row that it is paired with.
            image = row if unconditional else row - rows.uncond
            here = [
                operation
                for operation in self.on_image(image)
                if operation.where.on_row(unconditional)
                and operation.where.at_step(self.clock.step)
                and site in self.heads[operation]
            ]
            beside = rows.prompts[row + rows.uncond] if unconditional else prompt
            whose = [operation.whose(prompt, beside) for operation in here]
            if None in whose:
                raise InterpError(
                    f"{here[whose.index(None)]!r} applies to unconditional rows.",
                    "They were given as negative_prompt_embeds, and their prompts are unknown.",
                    "Pass the prompts: negative=interp.encode(pipe, '').",
                )
            pairs = zip(here, whose, strict=True)
            found.append(tuple((operation, of) for operation, of in pairs if of is not None))
        for operation, prompt in chain.from_iterable(found):
            if operation not in self.touched and bool(operation.positions(prompt).any()):
                self.touched.add(operation)
        return tuple(found)


class PatchedDenoiser:
    """The hooks on one UNet, shared by all patches that are on it."""

    def __init__(self, denoiser: nn.Module, layers: Sequence[Site]) -> None:
        self.denoiser = denoiser
        self.applied: list[Applied] = []
        self._hooks = Hooks()
        self._projections: dict[tuple[Site, str], tuple[nn.Module, Hooks]] = {}
        self._rows: list[BatchRows | None] = []
        self._plans: dict[tuple, LayerPlan] = {}
        self._running: dict[Site, tuple[LayerPlan, Text]] = {}
        self._edited: dict[RowEdits, tuple[Text, Text]] = {}
        self._repadded: dict[tuple, Prompt] = {}
        PATCHED[denoiser] = self
        for site in layers:
            self._hooks.before(denoiser.get_submodule(site.path), partial(self._before, site))
        self._hooks.after(denoiser, Guidance(self.applied).mix)

    def discard(self, applied: Applied) -> None:
        """Take these patches off; the last to go takes the hooks with it."""
        self.applied.remove(applied)
        self._forget()
        if not self.applied:
            self._hooks.close()
            for _, hooks in self._projections.values():
                hooks.close()
            PATCHED.pop(self.denoiser, None)

    def patches(self) -> list[str]:
        """What is on, as JSON, for provenance."""
        return [dump(applied.operations) for applied in self.applied]

    def begin(self, *call: Any) -> None:
        """A UNet call begins: edits are made anew, and plans if the rows are others."""
        self._edited.clear()
        rows = [applied.reader.rows for applied in self.applied]
        if rows != self._rows:
            self._forget()
            self._rows = rows

    def _forget(self) -> None:
        for known in (self._plans, self._running, self._edited, self._repadded):
            known.clear()
        self._rows = []

    def _before(self, site: Site, attention: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Before a layer runs: give it edited embeddings, watch its projections, mask its keys."""
        given = kwargs["encoder_hidden_states"]
        # IP-Adapter passes (text, images); the images are left alone.
        text, *images = given if isinstance(given, tuple) else (given,)
        active = tuple(
            operation.where.at_step(applied.clock.step)
            for applied in self.applied
            for operation in applied.operations
        )
        if (site, active) not in self._plans:
            self._plans[site, active] = self._plan(site, attention, text.device)
        plan = self._plans[site, active]
        self._running[site] = (plan, text)
        changed = dict(kwargs)
        if plan.embeds is not None:
            edited = self._edit(text, plan.embeds)
            changed["encoder_hidden_states"] = (edited, *images) if images else edited
        if plan.projected or plan.silent is not None:
            names = {"to_kv": SIDES} if is_fused(attention) else {"to_k": ("k",), "to_v": ("v",)}
            for name, sides in names.items():
                self._follow(site, name, getattr(attention, name), sides)
        if plan.masked is not None:
            mask = kwargs.get("attention_mask")
            changed["attention_mask"] = _bias(plan.masked, mask, attention, args[0])
        return args, changed

    def _plan(self, site: Site, attention: Any, device: torch.device) -> LayerPlan:
        by_patch = [applied.edits(site) for applied in self.applied]
        rows = tuple(tuple(chain.from_iterable(row)) for row in zip(*by_patch, strict=True))
        heads = {o: at[site] for a in self.applied for o, at in a.heads.items() if site in at}
        return plan_layer(site, rows, heads, attention.inner_kv_dim, device)

    def _edit(self, text: Text, rows: RowEdits) -> Text:
        """The edited embeddings, made once per UNet call, because all layers are given one text."""
        known, made = self._edited.get(rows, (None, text))
        if known is not text:
            new = []
            for row, edits in zip(text, rows, strict=True):
                for operation, prompt in edits:
                    row = operation.edit(row, prompt, self._reencode)
                new.append(row)
            made = torch.stack(new)
            self._edited[rows] = (text, made)
        return made

    def _reencode(self, prompt: Prompt, token: str | int) -> Prompt:
        """The prompt with other pads, encoded once per batch."""
        # By prompt, not by its ids: SDXL's zeros have those of the empty prompt.
        if (prompt, token) not in self._repadded:
            self._repadded[prompt, token] = repad(self.applied[0].pipe, prompt, token)
        return self._repadded[prompt, token]

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
