"""From the values recorded in each run of the sampler to one labelled dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from interp.denoiser.batch import BatchRows
from interp.denoiser.layers import Site
from interp.errors import InterpError
from interp.results.axes import DIMS, POSITION
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt


@dataclass
class SamplerRun:
    """The values recorded in one run of the sampler, and the batches of its steps.

    There is one batch, unless a callback drops guidance or changes the prompt during the run.
    """

    number: int
    batches: list[BatchRows] = field(default_factory=list)
    timesteps: dict[int, float] = field(default_factory=dict)
    values: dict[tuple[str, int, Site], tuple[Tensor, int, BatchRows]] = field(default_factory=dict)
    sizes: dict[Site, tuple[int, int]] = field(default_factory=dict)
    step: int = 0

    def begin(self, step: int, timestep: float, batch: BatchRows) -> None:
        """Assign what follows to this step and these rows."""
        if step in self.timesteps:
            raise InterpError(
                f"Step {step} was recorded twice in one run.",
                "A dataset has one value for each step.",
                "Call log.clock.restart() before calling the UNet for another batch.",
            )
        self.step = step
        self.timesteps[step] = timestep
        if not self.batches or self.batches[-1] is not batch:
            self.batches.append(batch)

    def keep(self, name: str, site: Site, values: Tensor, first: int) -> None:
        """Store `[row, head, ...]`, the values of the rows from `first` on."""
        self.values[name, self.step, site] = (values, first, self.batches[-1])


def to_dataset(
    runs: Sequence[SamplerRun],
    layers: Sequence[Site],
    names: dict[str, tuple[str, ...]],
    seeds: Sequence[int] | None = None,
    categories: Sequence[str] = CATEGORIES,
) -> xr.Dataset:
    """All runs as one dataset, NaN where a run or layer has no value.

    Recordings of videos have an axis `frame` after `seed`.

    Example:
        >>> to_dataset(log.runs, ip.sites(pipe.unet), {"mass": ("category",)})

    Args:
        runs: the recorded runs.
        layers: the recorded layers, in execution order.
        names: the recorded variables, and their axes after `head`.
        seeds: labels of the images of each prompt; None numbers them.
        categories: the categories of the keys; a transformer's image also attends to itself.

    Raises:
        InterpError: nothing was recorded, timesteps differ, the number of seeds is not that of the
            images, or a recorded value is NaN.
    """
    if not any(run.values for run in runs):
        raise InterpError(
            "The dataset of a recording was asked for.",
            "Nothing was recorded: the UNet was not called inside the block.",
            "Call the pipeline inside `with record(...)`.",
        )
    places, prompts, images = _places(runs)
    timesteps, frames = _timesteps(runs), runs[0].batches[0].frames
    if seeds is not None and len(seeds) * frames != images:
        raise InterpError(
            f"{len(seeds)} seeds were given for a recording.",
            f"It holds {images // frames} images of each prompt.",
            "Pass as many seeds as images.",
        )
    sizes = (len(prompts), images, len(timesteps), len(layers), max(s.heads for s in layers))
    variables = {}
    for name, dims in names.items():
        for suffix, kept in _arrays(name, dims, runs, places, list(timesteps), layers, sizes):
            variables[name + suffix] = ((*DIMS[:-1], *dims), kept)
    coords = {
        "prompt": range(len(prompts)),
        "step": list(timesteps),
        "timestep": ("step", list(timesteps.values())),
        "head": range(sizes[4]),
        **_of_layers(runs, layers),
        **_of_prompts(prompts, any(POSITION in dims for dims in names.values())),
    }
    if len(categories) > len(CATEGORIES):
        coords |= _with_image(coords, categories, runs[0])
    named = list(range(images // frames) if seeds is None else seeds)
    data = xr.Dataset(variables, coords)
    if frames > 1:
        data = data.coarsen(seed=frames).construct(seed=("seed", "frame"))
        data = data.assign_coords(frame=range(frames))
    return data.assign_coords(seed=named)


Places = dict[tuple[int, BatchRows], tuple[np.ndarray, np.ndarray]]


def _places(runs: Sequence[SamplerRun]) -> tuple[Places, list[tuple[Prompt, Prompt | None]], int]:
    """For every run and batch, the prompt and image number of its conditional rows.

    The same text twice in one batch counts as two prompts; the same text in two runs is one prompt
    with more images.
    """
    numbers: dict[tuple, int] = {}
    prompts: list[tuple[Prompt, Prompt | None]] = []
    counts: list[int] = []
    places = {}
    for run in runs:
        before = dict(enumerate(counts))
        for rows in run.batches:
            seen: dict[tuple[int, ...], int] = {}
            where = []
            for row in range(rows.uncond, len(rows.prompts)):
                ids, prompt = rows.ids[row], rows.prompts[row]
                assert ids is not None
                assert prompt is not None
                image = (row - rows.uncond) % rows.images
                seen[ids] = seen.get(ids, -1) + (image == 0)
                number = numbers.setdefault((ids, seen[ids]), len(numbers))
                other = rows.prompts[row - rows.uncond] if rows.uncond else None
                if number == len(prompts):
                    prompts.append((prompt, other))
                    counts.append(0)
                elif prompts[number][1] is None:
                    prompts[number] = (prompt, other)
                where.append((number, before.get(number, 0) + image))
                counts[number] = max(counts[number], where[-1][1] + 1)
            places[run.number, rows] = (
                np.array([prompt for prompt, _ in where]),
                np.array([image for _, image in where]),
            )
    return places, prompts, max(counts)


def _timesteps(runs: Sequence[SamplerRun]) -> dict[int, float]:
    timesteps: dict[int, float] = {}
    for run in runs:
        for step, timestep in run.timesteps.items():
            if timesteps.setdefault(step, timestep) != timestep:
                raise InterpError(
                    "Cannot make one dataset of these runs.",
                    f"Step {step} is at timestep {timesteps[step]:g} in one and at {timestep:g} in "
                    "another.",
                    "Record runs with different schedules in separate blocks.",
                )
    return dict(sorted(timesteps.items()))


def _arrays(
    name: str,
    dims: tuple[str, ...],
    runs: Sequence[SamplerRun],
    places: Places,
    steps: Sequence[int],
    layers: Sequence[Site],
    sizes: tuple[int, ...],
) -> list[tuple[str, np.ndarray]]:
    """One variable for the conditional rows and, if there are any, for the unconditional rows."""
    step_place = {step: place for place, step in enumerate(steps)}
    layer_place = {site: place for place, site in enumerate(layers)}
    kept = [
        (places[run.number, values[2]], step, site, *values)
        for run in runs
        for (kind, step, site), values in run.values.items()
        if kind == name
    ]
    shape = kept[0][3].shape[2:]
    cond = np.full((*sizes, *shape), np.nan, dtype=np.float32)
    has_uncond = any(rows.uncond and first == 0 for *_, first, rows in kept)
    uncond = np.full_like(cond, np.nan) if has_uncond else None
    for (prompt, image), step, site, values, first, rows in kept:
        numbers = values.float().cpu().numpy()
        if np.isnan(numbers).any():
            raise InterpError(
                f"{name} of layer {site.name} was recorded in step {step}.",
                "It contains NaN, because something overflowed; in a dataset NaN stands for a head "
                "that does not exist.",
                "Run the model in float32 or bfloat16, or patch more gently.",
            )
        at = (prompt, image, step_place[step], layer_place[site], slice(site.heads))
        cond[at] = numbers[rows.uncond - first :]
        if uncond is not None and rows.uncond and first == 0:
            other = numbers[: rows.uncond].copy()
            if "category" in dims:
                # The categories of these rows are unknown.
                other[[row for row in range(rows.uncond) if rows.prompts[row] is None]] = np.nan
            uncond[at] = other
    return [("", cond)] if uncond is None else [("", cond), ("_uncond", uncond)]


def _of_layers(runs: Sequence[SamplerRun], layers: Sequence[Site]) -> dict[str, Any]:
    grids = {site: size for run in runs for site, size in run.sizes.items()}
    return {
        "layer": [site.name for site in layers],
        "block": ("layer", [site.block for site in layers]),
        "n_heads": ("layer", [site.heads for site in layers]),
        "height": ("layer", [grids[site][0] for site in layers]),
        "width": ("layer", [grids[site][1] for site in layers]),
        "resolution": ("layer", ["x".join(map(str, grids[site])) for site in layers]),
    }


def _of_prompts(prompts: Sequence[tuple[Prompt, Prompt | None]], positions: bool) -> dict[str, Any]:
    cond = [prompt for prompt, _ in prompts]
    coords: dict[str, Any] = {
        "category": list(CATEGORIES),
        "text": ("prompt", [prompt.text for prompt in cond]),
        "tokens": (("prompt", "category"), [list(prompt.counts.values()) for prompt in cond]),
    }
    if positions:
        named = [[CATEGORIES[code] for code in prompt.category.tolist()] for prompt in cond]
        coords[POSITION] = range(len(cond[0].words))
        coords["word"] = (("prompt", POSITION), [list(prompt.words) for prompt in cond])
        coords["position_category"] = (("prompt", POSITION), named)
        if cond[0].segments:
            of = [name for name, length in cond[0].segments for _ in range(length)]
            coords["segment"] = (POSITION, of)
    uncond = [other for _, other in prompts if other is not None]
    if len(uncond) == len(cond):
        counts = [list(other.counts.values()) for other in uncond]
        coords["tokens_uncond"] = (("prompt", "category"), counts)
    return coords


def _with_image(
    coords: dict[str, Any], categories: Sequence[str], run: SamplerRun
) -> dict[str, Any]:
    """The categories including that of the image, and the number of its keys."""
    height, width = next(iter(run.sizes.values()))
    found: dict[str, Any] = {"category": list(categories)}
    for name in ("tokens", "tokens_uncond"):
        if name in coords:
            dims, counts = coords[name]
            found[name] = (dims, [[*row, height * width] for row in counts])
    return found
