"""Causal tracing: at which layers and steps, in which heads, through keys or values, a patch acts.

The map is exact: every cell is an intervention. Total effects (`trajectory="own"`) cost a whole
generation per cell; direct effects (`"clean"`) part of one conditional row. `patching` estimates
the same map from gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Literal

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from interp import results
from interp.attribute.cells import at_step, inside
from interp.attribute.direct import NOTHING, Intervention, evaluate
from interp.attribute.layout import Layout
from interp.attribute.points import Points, clean_points
from interp.attribute.resume import Cost
from interp.attribute.values import (
    NoiseValue,
    Value,
    generations,
    guidance,
    measure,
    of_prompt,
    value_name,
)
from interp.denoiser.layers import Selector
from interp.denoiser.pipelines import denoiser
from interp.errors import InterpError
from interp.patch import Patch
from interp.patch.where import Side, Steps
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.session.batches import labels
from interp.text.prompt import Prompt

Direction = Literal["necessary", "sufficient"]


def causal_trace(
    session: Session,
    prompts: str | Prompt | Sequence[str | Prompt],
    patch: Patch | Mapping[str, Patch],
    layers: Selector = "all",
    steps: Steps | str = "all",
    heads: Sequence[int] | str | None = None,
    side: Side | Sequence[Side] = "kv",
    *,
    value: Value | None = None,
    seeds: Seeds = (0,),
    window: tuple[int, int] = (1, 1),
    trajectory: Literal["clean", "own"] | str = "clean",
    direction: Direction | Literal["both"] | str = "necessary",
) -> xr.Dataset:
    """The effect of a patch, cell by cell, over layers, steps, heads and sides.

    Example:
        >>> pads = {"pad": ip.swap("pad", donor=b, align="nearest")}
        >>> trace = causal_trace(sd, a, pads, heads="all", side=("k", "v"), direction="both")
        >>> trace.effect.sel(direction="necessary", side="v").mean(["seed", "head"])

    "necessary" applies the patch in one cell of the clean run; "sufficient" applies it everywhere
    but in that cell. `effect` is `(value - corrupted) / (clean - corrupted)`, where the corrupted
    run is patched everywhere. It is near 0 for a necessary cell (patching it alone does what the
    whole patch does), and near 1 for a sufficient one. To put a prompt's embeddings into a
    control's run instead, trace the control with `swap(..., donor=a)`.

    Args:
        session: pipeline and settings.
        prompts: one or several, texts or encoded.
        patch: the patch to trace, or several by name, which adds an axis `patch`.
        layers: the cells' layers (see `layers.select`).
        steps: the cells' steps.
        heads: None for all heads together; head numbers or "all" add an axis.
        side: keys, values or both; several add an axis. Masks count as keys.
        value: by default `guidance()`. On the clean trajectory it must be a value of noise
            predictions without `steps`, and is taken at each step.
        seeds: as in `Session.run`.
        window: the layers and steps that a cell spans, centred where possible. On the clean
            trajectory, cells of several steps are means over those steps.
        trajectory: "clean" evaluates every cell on the latents of the unpatched run (the direct
            effect at that step); "own" lets its run follow its own latents (the total effect).
        direction: "necessary", "sufficient", or "both", which adds an axis.

    Returns:
        `value` and `effect` over `(direction, patch, side, prompt, seed, step, layer, head)`, those
        that are axes, NaN where a layer lacks the head; `clean` and `corrupted`, which have a step
        only on the clean trajectory. The attributes `unet_rows` and `unet_rows_naive` are the cost
        in rows of the UNet, and that of one generation per cell.

    Raises:
        InterpError: a cell does not exist; or, on the clean trajectory, a patch edits unconditional
            rows or the value is not one of single noise predictions.

    Source: causal tracing is due to Meng et al., NeurIPS 2022 (arXiv 2202.05262); total and direct
    effects to Pearl 2001.
    """
    encoded, seeds = session._prompts(prompts), chosen_seeds(seeds)
    value = guidance() if value is None else value
    names, patches = labels(patch)
    grid = Layout(session, names, patches, layers, steps, heads, side, direction, window)
    if trajectory == "clean":
        data = _direct(session, encoded, seeds, grid, _single(value, patches))
    elif trajectory == "own":
        data = _total(session, encoded, seeds, grid, value)
    else:
        raise InterpError(
            f"trajectory={trajectory!r} was asked for.",
            "It is 'clean' (direct effects) or 'own' (total effects).",
            "Choose one of them.",
        )
    data["effect"] = (data["value"] - data.corrupted) / (data.clean - data.corrupted)
    data = data.assign_coords(text=("prompt", [prompt.text for prompt in encoded]))
    unnamed = [axis for axis, named in grid.named.items() if not named]
    data = data.squeeze(unnamed, drop=True)
    runs = len(grid.cells()) * len(grid.steps) + len(patches) + 1
    rows = grid.calls * (2 if session.guided else 1) * len(seeds) * len(encoded)
    data.attrs["unet_rows_naive"] = float(runs * rows)
    return results.stamp(
        data,
        **session.provenance(),
        method="causal_trace",
        value=value_name(value),
        patches={
            name: json_of.to_json() for name, json_of in zip(grid.patches, patches, strict=True)
        },
        prompts=[prompt.text for prompt in encoded],
        seeds=list(seeds),
        window=list(window),
        trajectory=trajectory,
    )


def _direct(
    session: Session,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    grid: Layout,
    value: NoiseValue,
) -> xr.Dataset:
    """Direct effects: all cells at all points, steps sharing batches."""
    sizes = (len(grid.patches), len(grid.sides), len(prompts), len(seeds), len(grid.steps))
    found = np.full((len(grid.directions), *sizes, len(grid.places), len(grid.heads)), np.nan)
    clean = np.empty((len(prompts), len(seeds), len(grid.steps)))
    corrupted = np.empty((len(grid.patches), *clean.shape))
    cost = Cost(denoiser(session.pipe))
    for row, prompt in enumerate(tqdm(prompts, unit="prompt", disable=None)):
        _must_touch(grid, prompt)
        points = clean_points(session, prompt, seeds, grid.steps)
        cost.rows += points.spent
        for rows, patches in _by_patches(points, list(grid.patches.values())):
            everywhere = frozenset(site.name for site in grid.every)
            asks = [Intervention(whole, layers=everywhere) for whole in patches]
            asks += [_ask(grid, patches, *index) for index in grid.cells()]
            values, bases = evaluate(session, points[rows], asks, value, cost)
            seed, step = np.divmod(np.array(rows), len(grid.steps))
            clean[row, seed, step] = bases[NOTHING].numpy()
            corrupted[:, row, seed, step] = values[: len(patches)].numpy()
            for index, one in zip(grid.cells(), values[len(patches) :], strict=True):
                direction, number, side, place, head = index
                found[direction, number, side, row, seed, step, place, head] = one.numpy()
    data = xr.Dataset({"value": grid.dataset(found, len(prompts), seeds)})
    axes = ("prompt", "seed", "step")
    data["clean"], data["corrupted"] = (axes, clean), (("patch", *axes), corrupted)
    spans = [grid.span(column) for column in range(len(grid.steps))]
    for name, variable in list(data.items()):
        means = [variable.isel(step=span).mean("step", skipna=False) for span in spans]
        data[name] = xr.concat(means, data.step).transpose(*variable.dims)
    data = data.assign_coords(timestep=("step", points.timestep[: len(grid.steps)].cpu().numpy()))
    return data.assign_attrs(unet_rows=float(cost.rows))


def _total(
    session: Session, prompts: Sequence[Prompt], seeds: Sequence[int], grid: Layout, value: Value
) -> xr.Dataset:
    """Total effects: one generation per cell."""
    sizes = (len(grid.patches), len(grid.sides), len(prompts), len(seeds), len(grid.steps))
    found = np.full((len(grid.directions), *sizes, len(grid.places), len(grid.heads)), np.nan)
    clean = np.empty((len(prompts), len(seeds)))
    corrupted = np.empty((len(grid.patches), *clean.shape))
    wholes = list(grid.patches.values())
    runs: dict[str, Patch | None] = {"clean": None}
    runs |= {f"corrupted {number}": whole for number, whole in enumerate(wholes)}
    for index, column in product(grid.cells(), range(len(grid.steps))):
        direction, number, side, place, head = index
        steps = [grid.steps[i] for i in grid.span(column)]
        cell = grid.cell(grid.sides[side], grid.places[place], grid.heads[head], steps)
        patch = grid.apply(grid.directions[direction], wholes[number], cell)
        runs[str((*index, column))] = patch if patch.operations else None
    spent = 0
    for row, column in product(range(len(prompts)), range(len(seeds))):
        own = of_prompt(value, row)
        values = iter(measure(session, prompts[row], seeds[column], runs, own))
        clean[row, column] = next(values)
        corrupted[:, row, column] = [next(values) for _ in wholes]
        for (direction, number, side, place, head), step in product(
            grid.cells(), range(len(grid.steps))
        ):
            found[direction, number, side, row, column, step, place, head] = next(values)
        spent += generations(runs) * grid.calls * (2 if session.guided else 1)
    data = xr.Dataset({"value": grid.dataset(found, len(prompts), seeds)})
    axes = ("prompt", "seed")
    data["clean"], data["corrupted"] = (axes, clean), (("patch", *axes), corrupted)
    return data.assign_attrs(unet_rows=float(spent))


def _ask(
    grid: Layout,
    patches: Sequence[Patch],
    direction: int,
    number: int,
    side: int,
    place: int,
    head: int,
) -> Intervention:
    """One cell on the clean trajectory, with the run that it equals before its layers."""
    way, whole = grid.directions[direction], patches[number]
    cell = grid.cell(grid.sides[side], grid.places[place], grid.heads[head], None)
    base = NOTHING if way == "necessary" else whole
    if not inside(whole, cell, grid.every, grid.calls).operations:
        return Intervention(base, base, cell.layers)
    return Intervention(grid.apply(way, whole, cell), base, cell.layers)


def _by_patches(
    points: Points, patches: Sequence[Patch]
) -> Iterator[tuple[list[int], list[Patch]]]:
    """Points at which the patches do the same, and those patches, no longer limited to steps."""
    groups: dict[tuple[Patch, ...], list[int]] = {}
    for row, step in enumerate(points.step):
        groups.setdefault(tuple(at_step(patch, step) for patch in patches), []).append(row)
    for active, rows in groups.items():
        yield rows, list(active)


def _single(value: Value, patches: Sequence[Patch]) -> NoiseValue:
    """The value; raise unless it and the patches can be evaluated at single conditional rows."""
    if not isinstance(value, NoiseValue) or value.steps is not None:
        raise InterpError(
            f"{value_name(value)} on the clean trajectory was asked for.",
            "Steps are evaluated one by one there, so it must be a value of noise predictions "
            "without steps=.",
            "Use guidance() or noise_value(f) with steps= of the cells, or trajectory='own'.",
        )
    for patch in patches:
        for operation in patch.operations:
            if operation.where.uncond is not False:
                raise InterpError(
                    f"The direct effect of {operation!r} was asked for.",
                    "It patches unconditional rows, whose predictions on the clean trajectory are "
                    "those of the unpatched run.",
                    "Use uncond=False in the patch, or trajectory='own'.",
                )
    return value


def _must_touch(grid: Layout, prompt: Prompt) -> None:
    """Raise for operations that touch no position of the prompt, or no step that is traced."""
    for patch in grid.patches.values():
        for operation in patch.operations:
            positions = bool(operation.positions(prompt).any())
            step = any(operation.where.at_step(step) for step in grid.steps)
            if not (positions and step) and not operation.idle:
                raise InterpError(
                    f"The effect of {operation!r} on {prompt!r} was asked for.",
                    "It touches none of the prompt's positions, or none of the steps "
                    f"{grid.steps[0]} to {grid.steps[-1]}.",
                    "Check its categories and steps, and the steps of the cells.",
                )
