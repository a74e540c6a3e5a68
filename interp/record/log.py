"""Recording cross-attention of a stock pipeline, without touching its processors.

After each cross-attention layer has run, its probabilities are recomputed from its queries and its
inputs, including patches and masks, and reduced at once. So the recording is right for any
attention kernel, costs a few per cent, and never holds a map unless `maps` is asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from interp.denoiser.batch import BatchRows, RowReader
from interp.denoiser.clock import StepClock
from interp.denoiser.exchanged import must_be_the_same, must_be_there
from interp.denoiser.hooks import Hooks, hookable, patches_on
from interp.denoiser.layers import Selector, Site, select
from interp.denoiser.memory import GIB
from interp.denoiser.pipelines import denoiser as denoising
from interp.denoiser.pipelines import stock
from interp.denoiser.processors import must_follow
from interp.denoiser.transformer_rows import reader_of
from interp.errors import InterpError
from interp.record.dataset import SamplerRun, to_dataset
from interp.record.layer import bias_of, grid, keys_of, probabilities
from interp.record.recorders import LayerAttention, Recorder, distinct, mass
from interp.results.numbers import Seeds, chosen_seeds
from interp.results.provenance import describe, stamp
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt
from interp.transformer.family import family

CHUNK = 2**24
"""The number of probabilities held at once: rows of a batch are reduced in pieces of this size."""


class Log:
    """What has been recorded; `dataset()` returns it as a labelled dataset.

    Example:
        >>> with record(pipe, mass) as log:
        ...     pipe("a photo of a goat", num_images_per_prompt=4)
        >>> log.dataset().mass.sel(category="pad").mean(["seed", "head"])
    """

    categories = CATEGORIES

    def __init__(
        self,
        pipe: Any,
        recorders: Sequence[Recorder],
        layers: Selector,
        uncond: bool,
        budget: int,
        hooks: Hooks,
        reader: RowReader,
    ) -> None:
        every = hookable(pipe)
        chosen = select(every, layers)
        self.pipe, self.recorders, self.uncond, self.budget = pipe, recorders, uncond, budget
        self.wanted: dict[Site, list[Recorder]] = {}
        for site in chosen:
            mine = [r for r in recorders if site in select(every, r.layers)]
            if mine:
                self.wanted[site] = mine
        self.runs: list[SamplerRun] = []
        self.facts: dict[str, Any] = {}
        self.kept = 0
        self._first = 0
        self._caught: dict[Site, tuple[nn.Module, Tensor]] = {}
        none = torch.empty(0)
        self._known: tuple[BatchRows | None, Tensor, Tensor] = (None, none, none)
        self._shapes: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._size = (0, 0)
        self._thread: int | None = None
        self.reader = reader
        self.clock = StepClock(pipe, hooks)
        unet = denoising(pipe)
        hooks.before(unet, self._begin, of=pipe)
        hooks.after(unet, self._end, always=True)
        self._layers = {site: unet.get_submodule(site.path) for site in self.wanted}
        self._watch(hooks)

    def _watch(self, hooks: Hooks) -> None:
        for site, layer in self._layers.items():
            hooks.after(layer.to_q, partial(self._catch, site))
            hooks.after(layer, partial(self._see, site))

    def dataset(self, seeds: Seeds | None = None) -> xr.Dataset:
        """The recording as `variable(prompt, seed, step, layer, head, ...)`, float32.

        Example:
            >>> log.dataset(seeds=range(4))

        The rows of a prompt, even across pipeline calls, are its seeds, numbered from 0 unless
        `seeds` labels them. Unconditional rows are separate variables (`mass_uncond`), each at the
        place of the conditional row it was denoised with.

        Raises:
            InterpError: nothing was recorded, or runs had different timesteps.
        """
        names = {recorder.name: recorder.dims for recorder in self.recorders}
        labels = None if seeds is None else chosen_seeds(seeds)
        data = to_dataset(self.runs, tuple(self.wanted), names, labels, self.categories)
        return stamp(data, **self.facts)

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """A UNet call begins."""
        must_be_there(module, self._layers)
        clock, batch = self.clock, self.reader.batch
        self._size = self._sample_size(args, kwargs)
        if not self.runs or clock.run != self.runs[-1].number:
            self.runs.append(SamplerRun(clock.run))
            self._first = self.kept
            if not self.facts:
                # Only once: diffusers searches all modules for dtype and device, which is slow.
                self.facts = {**describe(self.pipe), "patches": patches_on(self.pipe)}
        run = self.runs[-1]
        if len(run.timesteps) == 1:
            self._project(len(self.pipe.scheduler.timesteps))
        run.begin(clock.step, clock.timestep, batch)
        self._thread = threading.get_ident()

    def _sample_size(self, args: tuple, kwargs: dict) -> tuple[int, int]:
        """Height and width of what is denoised."""
        sample = args[0] if args else kwargs["sample"]
        return sample.shape[-2], sample.shape[-1]

    def _end(self, *call: Any) -> None:
        """A UNet call is over. Under gradient checkpointing its layers will run again later."""
        if self._under_way:
            self._thread = None

    @property
    def _under_way(self) -> bool:
        """Whether the layer runs in a call being recorded: other threads may share the UNet."""
        return self._thread == threading.get_ident()

    @torch.no_grad()
    def _see(self, site: Site, attention: Any, args: tuple, kwargs: dict, output: Any) -> None:
        """After a layer ran: recompute its probabilities, and store what the recorders return."""
        if not self._under_way:
            return
        must_follow(site, attention, args, kwargs, output)
        hidden = args[0]
        batch = self.reader.batch
        given = kwargs["encoder_hidden_states"]
        text = given[0] if isinstance(given, tuple) else given
        first = 0 if self.uncond else batch.uncond
        keys = keys_of(attention, text)
        queries = self._queries(site, attention, hidden)
        size = self.runs[-1].sizes[site] = grid(hidden.shape[1], self._size)
        category, members = self._codes(batch, text.device)
        rows = max(1, CHUNK // (site.heads * hidden.shape[1] * text.shape[1]))
        parts: dict[str, list[Tensor]] = {}
        # Autocast would take products in half precision.
        with torch.autocast(text.device.type, enabled=False):
            for start in range(first, len(text), rows):
                piece = slice(start, start + rows)
                bias = bias_of(
                    attention, kwargs.get("attention_mask"), len(text), text.shape[1], piece
                )
                seen = LayerAttention(
                    site,
                    probabilities(queries[piece], keys[piece], attention.scale, bias),
                    category[piece],
                    members[piece],
                    size,
                )
                for recorder in self.wanted[site]:
                    parts.setdefault(recorder.name, []).append(recorder(seen))
        for name, pieces in parts.items():
            self._keep(name, site, torch.cat(pieces), first)

    def _catch(self, site: Site, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        """Catch the layer's own queries: they are expensive, and no patch changes them."""
        if self._under_way:
            self._caught[site] = (module, output.detach())

    def _queries(
        self, site: Site, attention: Any, hidden: Float[Tensor, "row query channel"]
    ) -> Float[Tensor, "row head query inner"]:
        caught = self._caught.pop(site, None)
        # The projection may have been replaced since it was hooked, as loading a LoRA does.
        if caught is None or caught[0] is not attention.to_q:
            queries = attention.to_q(hidden)
        else:
            queries = caught[1]
        split = "row query (head inner) -> row head query inner"
        return rearrange(queries, split, head=attention.heads)

    def _codes(self, batch: BatchRows, device: torch.device) -> tuple[Tensor, Tensor]:
        """The rows' categories on the layer's device, moved there once per batch."""
        if self._known[0] is not batch:
            self._known = (batch, batch.category.to(device), batch.members.to(device))
        return self._known[1:]

    def _keep(self, name: str, site: Site, values: Tensor, first: int) -> None:
        layer, shape = self._shapes.setdefault(name, (site.name, tuple(values.shape[2:])))
        if shape != tuple(values.shape[2:]):
            raise InterpError(
                f"Cannot record {name} of layers {layer} and {site.name} together.",
                f"They have shapes {shape} and {tuple(values.shape[2:])}.",
                "Choose layers with one resolution (layers='up.1'), or resample: maps(size=16).",
            )
        self.kept += values.numel() * values.element_size()
        if self.kept > self.budget:
            self._refuse(self.kept, "is")
        # Small values stay on the device: moving each one would synchronise with the GPU.
        self.runs[-1].keep(name, site, values if values.ndim < 5 else values.cpu(), first)

    def _project(self, steps: int) -> None:
        """After the first step of a run, check the memory that the whole run will take."""
        total = self._first + (self.kept - self._first) * steps
        if total > self.budget:
            self._refuse(total, "would be")

    def _refuse(self, size: int, verb: str) -> None:
        names = ", ".join(recorder.name for recorder in self.recorders)
        raise InterpError(
            f"Cannot record {names} of {len(self.wanted)} layers.",
            f"That {verb} {size / GIB:.3g} GiB; the budget is {self.budget / GIB:.3g} GiB.",
            "Record fewer layers, steps or rows, smaller maps, or raise budget= (in bytes).",
        )


@contextmanager
def record(
    pipe: Any,
    *recorders: Recorder,
    tokens: Prompt | Sequence[Prompt] | None = None,
    negative: Prompt | Sequence[Prompt] | None = None,
    guided: bool | None = None,
    layers: Selector = None,
    uncond: bool = True,
    budget: int = GIB,
) -> Iterator[Log]:
    """Record every call of the pipeline inside the block.

    Example:
        >>> with record(pipe, mass, entropy) as log:
        ...     pipe("a photo of a goat")
        >>> log.dataset()

    Args:
        pipe: a Stable Diffusion 1.x, 2.x or SDXL pipeline.
        recorders: what to record; by default `mass`.
        tokens: the conditional prompts, if the pipeline is called with `prompt_embeds`.
        negative: the unconditional prompts, if the pipeline does not encode them itself; without
            them, whatever depends on their categories is NaN.
        guided: whether batches have unconditional rows; None asks the pipeline.
        layers: where to record (see `layers.select`).
        uncond: whether to record unconditional rows too, which doubles the cost.
        budget: the bytes that the recording may take.

    Raises:
        InterpError: the pipeline can not be recorded, prompts are unknown, two recorders have the
            same name, or the recording would exceed the budget.
    """
    chosen = distinct(recorders or (mass,))
    pipe = stock(pipe)
    unet = denoising(pipe)
    kind = Log if family(pipe) is None else transformer_log()
    with Hooks() as hooks:
        reader = reader_of(pipe)(pipe, hooks, tokens, negative, guided)
        yield kind(pipe, chosen, layers, uncond, budget, hooks, reader)
    must_be_the_same([denoising(pipe)], [unet], "A recording")


def transformer_log() -> type[Log]:
    """The log for transformers, whose file imports this one."""
    from interp.record.transformer import TransformerLog

    return TransformerLog
