"""The hooks through which patches reach a transformer (see `patched` for UNets).

Patches without `layers=` edit the transformer's inputs: the text and the pooled vector. Those with
`layers=` edit the text stream as it enters a block. That stream changes from block to block, so a
donor's stream comes from an extra row with the donor's prompt, which runs in the same batch on the
same latents and timestep, and is removed after the last block.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.denoiser.hooks import Hooks
from interp.denoiser.layers import Site
from interp.errors import InterpError
from interp.patch.at import At
from interp.patch.base import Operation
from interp.patch.operations import Mask, Repad
from interp.patch.patched import Call, PatchedDenoiser
from interp.patch.plan import RowEdits
from interp.text.categories import PAD, POOLED, SOT
from interp.text.prompt import Prompt
from interp.transformer.family import Family, family

Text = Float[Tensor, "row position channel"]


class TransformerCall(Call, threading.local):
    """A call of the transformer that is in progress in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.here: dict[Site, RowEdits] = {}
        self.donor_rows: dict[tuple[int, Prompt], int] = {}
        self.text = 0
        self.rows = 0


class PatchedTransformer(PatchedDenoiser):
    """The hooks on one transformer, shared by all patches that are on it."""

    def _watch(self) -> None:
        known = family(self.denoiser)
        assert known is not None
        self._family: Family = known
        self._call: TransformerCall = TransformerCall()
        self._last = Hooks()
        self._hooks.callback(self._last.close)
        for site, attention in self._layers.items():
            block = self.denoiser.get_submodule(site.path.rpartition(".")[0])
            self._hooks.before(block, partial(self._enter, site))
            self._hooks.before(attention, partial(self._mask, site))
            self._hooks.after(attention, self._masked)
        self._hooks.after(self.denoiser, self._cut, first=True)
        self._hooks.after(self.denoiser, self._end, always=True)

    def add(self, owner: Any, at: At, hooks: Hooks) -> None:
        """Add patches until their hooks are closed."""
        super().add(owner, at, hooks)
        # The hook that changes the arguments comes last, when all patches are known.
        self._last.close()
        self._last.before(self.denoiser, self._start)

    def _start(self, module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Before the transformer runs: edit its inputs, and add the donors' rows."""
        call = self._call
        if not call.applied:
            return None
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        text = given["encoder_hidden_states"]
        call.text, call.rows = text.shape[1], len(text)
        by_site = {site: self._edits(site) for site in self._layers}
        call.here = {
            site: tuple(tuple(e for e in row if e[0].where.layers is not None) for row in rows)
            for site, rows in by_site.items()
        }
        first = next(iter(by_site.values()))
        whole = [[edit for edit in row if edit[0].where.layers is None] for row in first]
        given["encoder_hidden_states"] = self._embeds(text, whole)
        if given.get("pooled_projections") is not None:
            given["pooled_projections"] = self._pooled(given["pooled_projections"], whole)
        self._add_donor_rows(given, text, whole)
        return (), given

    def _edits(self, site: Site) -> RowEdits:
        by_patch = [at.edits(site) for _, at in self._call.applied]
        return tuple(tuple(chain.from_iterable(row)) for row in zip(*by_patch, strict=True))

    def _embeds(self, text: Text, edits: Sequence[Any]) -> Text:
        rows = []
        for original, mine in zip(text, edits, strict=True):
            row = original
            for operation, prompt in mine:
                if operation.EDITS == "embeddings":
                    row = operation.edit(row, prompt, partial(self._reencode, original))
                    self._did(operation, bool(operation.positions(prompt).any()))
            rows.append(row)
        return torch.stack(rows)

    def _pooled(self, pooled: Tensor, edits: Sequence[Any]) -> Tensor:
        rows = []
        for row, mine in zip(pooled, edits, strict=True):
            for operation, prompt in mine:
                if POOLED in operation.categories:
                    row = edit_pooled(operation, row, prompt)
                    self._did(operation, True)
            rows.append(row)
        return torch.stack(rows)

    def _add_donor_rows(self, given: dict[str, Any], text: Text, whole: Sequence[Any]) -> None:
        """Append a row for every donor whose stream is used by some block."""
        call = self._call
        added: list[tuple[int, Prompt]] = []
        call.donor_rows.clear()
        for row in range(len(text)):
            edits = [edit for here in call.here.values() for edit in here[row]]
            # A prompt's own stream needs no extra row, unless something changes its row.
            alone = not whole[row] and all(o.donors == (prompt,) for o, prompt in edits)
            for operation, prompt in edits:
                for donor in self._donors(operation, prompt, text[row]):
                    if alone:
                        call.donor_rows[row, donor] = row
                    elif (row, donor) not in call.donor_rows:
                        call.donor_rows[row, donor] = len(text) + len(added)
                        added.append((row, donor))
        if not added:
            return
        taken = torch.tensor([row for row, _ in added], device=text.device)
        for name in self._family.batched:
            given[name] = _longer(given.get(name), taken, len(text))
        donors = [donor for _, donor in added]
        embeds = torch.stack([donor.embeds.to(text) for donor in donors])
        given["encoder_hidden_states"][len(text) :] = embeds
        if given.get("pooled_projections") is not None:
            own = given["pooled_projections"][len(text) :]
            for place, donor in enumerate(donors):
                if donor.pooled is not None:
                    own[place] = donor.pooled.to(own)
        if given.get("encoder_attention_mask") is not None:
            own = given["encoder_attention_mask"][len(text) :]
            own[:] = torch.stack([donor.category < PAD for donor in donors]).to(own)

    def _donors(self, operation: Operation, prompt: Prompt, row: Tensor) -> Sequence[Prompt]:
        if isinstance(operation, Repad):
            return (self._reencode(row, prompt, operation.token),)
        return operation.donors

    def _enter(
        self, site: Site, block: Any, args: tuple, kwargs: dict
    ) -> tuple[tuple, dict] | None:
        """Before a block runs: edit the text stream."""
        call = self._call
        if not call.applied or not any(call.here[site]):
            return None
        stream = kwargs["encoder_hidden_states"]
        rows = list(stream)
        for row, edits in enumerate(call.here[site]):
            for operation, prompt in edits:
                if operation.EDITS == "embeddings":
                    rows[row] = self._edit_stream(operation, prompt, rows[row], row, stream)
                    self._did(operation, bool(operation.positions(prompt).any()))
        return args, {**kwargs, "encoder_hidden_states": torch.stack(rows)}

    def _edit_stream(
        self, operation: Operation, prompt: Prompt, own: Tensor, row: int, stream: Text
    ) -> Tensor:
        def there(donor: Prompt) -> Prompt:
            return replace(donor, embeds=stream[self._call.donor_rows[row, donor]])

        def reencode(prompt: Prompt, token: str | int) -> Prompt:
            return there(self._call.repadded[prompt, token][1])

        if operation.donors:
            operation = operation.given([there(donor) for donor in operation.donors])
        return operation.edit(own, prompt, reencode)

    def _mask(self, site: Site, attention: Any, args: tuple, kwargs: dict) -> Any:
        """Before a layer attends: remove keys from its softmax."""
        call = self._call
        if not call.applied:
            return None
        rows = self._edits(site)
        if not any(isinstance(operation, Mask) for row in rows for operation, _ in row):
            return None
        image = args[0] if args else kwargs["hidden_states"]
        keys = call.text
        if self._family.joint:
            apart = kwargs.get("encoder_hidden_states") is not None
            keys = image.shape[1] + (call.text if apart else 0)
        out = torch.zeros(len(image), keys, site.heads, 1, dtype=torch.bool)
        heads = {o: at.heads[o].get(site, ()) for _, at in call.applied for o in at.heads}
        for row, edits in enumerate(rows):
            for operation, prompt in edits:
                if isinstance(operation, Mask):
                    out[row, : call.text] |= operation.at(site, heads[operation], prompt, 0)
                    self._did(operation, bool(operation.positions(prompt).any()))
        if bool(out.all(dim=1).any()):
            raise InterpError(
                f"A mask was asked for at layer {site.name}.",
                "A head would have no key left to attend to.",
                "Leave at least one category unmasked.",
            )
        zeros = torch.zeros(out.shape, dtype=image.dtype).masked_fill(out, float("-inf"))
        bias = self._family.mask(zeros.to(image.device), kwargs.get("attention_mask"), attention)
        return args, {**kwargs, "attention_mask": bias}

    def _masked(self, attention: Any, args: tuple, kwargs: dict, output: Any) -> Any:
        """After a layer attended: repeat it with the mask if its processor ignored the mask."""
        return self._family.masked(attention, args, kwargs, output) if self._call.applied else None

    def _cut(self, module: Any, args: tuple, kwargs: dict, output: Any) -> Any:
        """After the transformer ran: remove the donors' rows."""
        call = self._call
        if not call.applied or len(output[0]) == call.rows:
            return None
        if isinstance(output, tuple):
            return (output[0][: call.rows], *output[1:])
        return type(output)(sample=output[0][: call.rows])

    def _did(self, operation: Operation, something: bool) -> None:
        for _, at in self._call.applied:
            if something and operation in at.heads:
                at.touched.add(operation)


def edit_pooled(operation: Operation, pooled: Float[Tensor, " pooled"], prompt: Prompt) -> Tensor:
    """The pooled vector after an operation, treated as a prompt with one position.

    Example:
        >>> (prompt,) = ip.encode(sd3, "a photo of a goat")
        >>> edit_pooled(zero("pooled").operations[0], prompt.pooled, prompt)     # zeros
    """

    def alone(of: Prompt, vector: Tensor | None) -> Prompt:
        if vector is None:
            raise InterpError(
                f"{operation!r} was asked for.",
                f"{of!r} has no pooled embedding.",
                "Encode it with this pipeline: interp.encode(pipe, text).",
            )
        ids = torch.zeros(1, dtype=torch.long)
        return Prompt(of.text, ids, ("",), torch.tensor([SOT]), vector[None])

    donors = [alone(donor, donor.pooled) for donor in operation.donors]
    same = replace(operation.given(donors), categories=("sot",))
    return same.edit(pooled[None], alone(prompt, pooled), _never)[0]


def _never(prompt: Prompt, token: str | int) -> Prompt:
    raise AssertionError("pads are not pooled")


def _longer(value: Any, taken: Tensor, rows: int) -> Any:
    """An argument with copies of some of its rows appended."""
    if isinstance(value, dict):
        return {name: _longer(part, taken, rows) for name, part in value.items()}
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
        return value
    return torch.cat([value, value[taken]])


def engine(denoiser: nn.Module) -> type[PatchedDenoiser]:
    """The class that puts patches on a denoiser: `engine(pipe.transformer)`."""
    return PatchedDenoiser if family(denoiser) is None else PatchedTransformer
