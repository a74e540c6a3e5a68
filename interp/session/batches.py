"""Patches x prompts x seeds as batches of worlds, and the results back on labelled axes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange

from interp.patch import Patch
from interp.results import LATENT, PIXELS
from interp.session.generate import Batch, World
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Planned:
    """A batch of worlds and, for each, its place in the grid (None: run only as a leader)."""

    worlds: list[World]
    places: list[int | None]
    leaders: list[int] | None = None


@dataclass(frozen=True, eq=False)
class Grid:
    """Every patch with every prompt and seed.

    Attributes:
        prompts: the prompts as asked for.
        seeds: the seeds.
        names: the labels of the patches; None where a single patch makes no axis.
        edits: for each patch, the prompts that are run (rewritten ones where a mitigation rewrites)
            and the patch that is applied to them.
    """

    prompts: Sequence[Prompt]
    seeds: Sequence[int]
    names: Sequence[str] | None
    edits: Sequence[tuple[Sequence[Prompt], Patch | None]]

    def __len__(self) -> int:
        return len(self.edits) * len(self.prompts) * len(self.seeds)

    def batches(self, at_once: int, clean: bool) -> Iterator[Planned]:
        """Yield batches of at most `at_once` worlds (two, where a leader comes along).

        The patches of one prompt and seed come together. With `clean`, each batch also holds the
        unpatched world that the others are given the latents of.
        """
        if not clean:
            for start in range(0, len(self), at_once):
                order = [self._cell(i) for i in range(start, min(start + at_once, len(self)))]
                yield Planned([world for _, world in order], [place for place, _ in order])
            return
        patches = len(self.edits)
        step = max(1, at_once - 1)
        for start in range(0, len(self), patches):
            for first in range(start, start + patches, step):
                last = min(first + step, start + patches)
                cells = [self._cell(i) for i in range(first, last)]
                at = start // patches
                prompt = self.prompts[at // len(self.seeds)]
                leader = World(prompt, self.seeds[at % len(self.seeds)])
                worlds = [leader, *(world for _, world in cells)]
                yield Planned(worlds, [None, *(place for place, _ in cells)], [0] * len(worlds))

    def _cell(self, index: int) -> tuple[int, World]:
        """The place in (patch, prompt, seed) order of a world counted with patches fastest."""
        at, patch = divmod(index, len(self.edits))
        prompt, seed = divmod(at, len(self.seeds))
        prompts, edit = self.edits[patch]
        place = (patch * len(self.prompts) + prompt) * len(self.seeds) + seed
        return place, World(prompts[prompt], self.seeds[seed], edit)

    def dataset(self, done: Sequence[tuple[Planned, Batch]], latents: bool) -> xr.Dataset:
        """Return what the batches gave, on the axes (patch, prompt, seed, ...).

        Args:
            done: every batch of `batches`, with its result.
            latents: whether the final latents are wanted.
        """
        parts: list[xr.Dataset] = []
        places: list[int] = []
        for planned, batch in done:
            wanted = [row for row, place in enumerate(planned.places) if place is not None]
            parts.append(_per_row(batch, latents).isel(row=wanted))
            places += [place for place in planned.places if place is not None]
        rows = xr.concat(parts, "row", data_vars="minimal", coords="minimal", compat="equals")
        data = rows.isel(row=np.argsort(places))
        return self._labelled(data)

    def _labelled(self, rows: xr.Dataset) -> xr.Dataset:
        axes = ("patch", "prompt", "seed")
        lengths = (len(self.edits), len(self.prompts), len(self.seeds))
        split = dict(zip(axes, lengths, strict=True))
        variables = {}
        for name, variable in rows.variables.items():
            if "row" in variable.dims:
                variable = variable.transpose("row", ...)
                values = rearrange(
                    variable.values, "(patch prompt seed) ... -> patch prompt seed ...", **split
                )
                variable = xr.Variable((*axes, *variable.dims[1:]), values, variable.attrs)
            variables[name] = _of_prompt(variable) if name in rows.coords else variable
        data = xr.Dataset(variables, attrs=rows.attrs).set_coords(list(rows.coords))
        data = data.assign_coords(
            seed=list(self.seeds),
            prompt=range(len(self.prompts)),
            text=("prompt", [prompt.text for prompt in self.prompts]),
            category=list(CATEGORIES),
            tokens=_of_prompt(self._tokens()),
        )
        if self.names is None:
            return data.isel(patch=0, drop=True)
        return data.assign_coords(patch=list(self.names))

    def _tokens(self) -> xr.Variable:
        """How many positions each category has in what was run."""
        counts = [
            [[list(prompt.counts.values())] for prompt in prompts] for prompts, _ in self.edits
        ]
        return xr.Variable(("patch", "prompt", "seed", "category"), np.asarray(counts))


def _of_prompt(variable: xr.Variable) -> xr.Variable:
    """What describes a prompt is the same for all seeds, and, unless rewritten, for all patches."""
    if "seed" in variable.dims:
        variable = variable.isel(seed=0)
        first = variable.isel(patch=0)
        return first if bool((variable == first).all()) else variable
    return variable


def _per_row(batch: Batch, latents: bool) -> xr.Dataset:
    """One batch's results with the axis `row`."""
    data = xr.Dataset() if batch.recorded is None else _rows_of(batch.recorded)
    variables: dict[str, Any] = {}
    if batch.images is not None:
        variables["image"] = (("row", *PIXELS), batch.images)
    if latents:
        variables["final_latents"] = (("row", *LATENT), batch.latents.float().numpy())
    if batch.traced is not None:
        traced = batch.traced
        kept = {"latents": traced.latents, "eps_c": traced.eps_c, "eps_u": traced.eps_u}
        for name, values in kept.items():
            if values:
                variables[name] = (("row", "step", *LATENT), torch.stack(values, dim=1).numpy())
        variables["timestep"] = ("step", traced.timesteps)
        variables["alpha_bar"] = ("step", traced.alpha_bars)
        data = data.drop_vars("timestep", errors="ignore")
    data = data.assign(variables)
    return data.set_coords([name for name in ("timestep", "alpha_bar") if name in data])


def _rows_of(recorded: xr.Dataset) -> xr.Dataset:
    """A recorder's dataset, to which every row of the batch is a prompt with one image."""
    rows = recorded.isel(seed=0, drop=True).drop_vars(["prompt", "text", "tokens"])
    return rows.rename(prompt="row").drop_attrs(deep=False)


def labels(edits: Any) -> tuple[list[str] | None, list[Any]]:
    """Return the labels of patches given singly (None), as a mapping, or as a sequence.

    Example:
        >>> labels({"none": None, "h": zero("pad")})[0]
        ['none', 'h']
    """
    if isinstance(edits, Mapping):
        return [str(name) for name in edits], list(edits.values())
    if isinstance(edits, (list, tuple)):
        return ["none" if edit is None else repr(edit) for edit in edits], list(edits)
    return None, [edits]
