"""Patches x prompts x seeds as batches of images, and their results on labelled axes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from tqdm.auto import tqdm

from interp.denoiser import unet_call
from interp.denoiser.memory import did_not_fit, halving, images_at_once
from interp.results import LATENT, PIXELS
from interp.session.generate import Generated, Job
from interp.session.settings import Settings
from interp.session.start import Start
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt

#: For each patch, how every prompt is run.
Starts = Sequence[Sequence[Start]]


def groups(
    unpatched: Sequence[Start], seeds: Sequence[int], edits: Starts, clean: bool
) -> list[tuple[list[Job], list[Job]]]:
    """Return the jobs that may share a batch, each list behind what leads all its batches.

    The patches of one prompt and seed come together. With `clean`, they are a group, led by the
    unpatched run whose latents the others are given; it has no place among the results.

    Example:
        >>> plain = [Start(a)]
        >>> [len(jobs) for leader, jobs in groups(plain, range(4), [plain], clean=False)]
        [4]
    """
    found: list[tuple[list[Job], list[Job]]] = [] if clean else [([], [])]
    for (row, plain), (column, seed) in product(enumerate(unpatched), enumerate(seeds)):
        if clean:
            found.append(([_job(plain, seed, column, None)], []))
        for number, starts in enumerate(edits):
            place = (number * len(unpatched) + row) * len(seeds) + column
            found[-1][1].append(_job(starts[row], seed, column, place))
    return found


def in_batches(
    session: Settings,
    planned: Sequence[tuple[list[Job], list[Job]]],
    run: Callable[..., Generated],
) -> list[tuple[list[Job], Generated]]:
    """Run all jobs, as many at once as fit into memory, each batch behind its leader.

    Example:
        >>> in_batches(sd, groups(plain, range(4), [plain], clean=False), run)

    Args:
        run: `run(jobs, tick=...)` runs one batch, and calls `tick` after every step.
    """
    room = (session.pipe, session.height, session.width, session.guided)
    calls = unet_call.calls_per_run(session.pipe, session.steps)
    done: list[tuple[list[Job], Generated]] = []

    def made(leader: list[Job], part: list[Job]) -> Generated:
        # Steps of a batch that did not fit are counted again.
        finished = sum(job.place is not None for jobs, _ in done for job in jobs)
        bar.update(calls * finished - bar.n)
        return run([*leader, *part], tick=partial(bar.update, len(part)))

    def at_once(led: int) -> int:
        return images_at_once(*room, session.budget) - led

    def too_many(led: int, count: int) -> None:
        # Each half will be led again.
        did_not_fit(*room, count + 2 * led)

    # Silent when not on a terminal; diffusers' own bar would be one per batch.
    total = calls * sum(len(jobs) for _, jobs in planned)
    with tqdm(total=total, unit="step", leave=None, disable=None) as bar:
        for leader, jobs in planned:
            led = len(leader)
            limits = (partial(at_once, led), partial(too_many, led))
            for part, result in halving(jobs, partial(made, leader), *limits):
                done.append(([*leader, *part], result))
    return done


def _job(start: Start, seed: int, column: int, place: int | None) -> Job:
    latents = None if start.latents is None else start.latents[column]
    return Job(start.prompt, seed, start.patch, place, latents, start.correct)


def labelled(
    done: Sequence[tuple[Sequence[Job], Generated]],
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    names: Sequence[str] | None,
    edits: Starts,
) -> xr.Dataset:
    """Return the results of all batches on the axes (patch, prompt, seed, ...).

    Args:
        done: the batches and their results.
        prompts: the prompts that were asked for.
        seeds: the seeds.
        names: the labels of the patches; None for a single patch, which makes no axis.
        edits: what was run for each patch.
    """
    parts: list[xr.Dataset] = []
    places: list[int] = []
    for jobs, result in done:
        wanted = [row for row, job in enumerate(jobs) if job.place is not None]
        parts.append(_per_row(result).isel(row=wanted))
        places += [job.place for job in jobs if job.place is not None]
    rows = xr.concat(parts, "row", data_vars="minimal", coords="minimal", compat="equals")
    rows = rows.isel(row=np.argsort(places))
    axes = {"patch": len(edits), "prompt": len(prompts), "seed": len(seeds)}
    variables = {}
    for name, variable in rows.variables.items():
        if "row" in variable.dims:
            variable = variable.transpose("row", ...)
            pattern = "(patch prompt seed) ... -> patch prompt seed ..."
            values = rearrange(variable.values, pattern, **axes)
            variable = xr.Variable((*axes, *variable.dims[1:]), values, variable.attrs)
        variables[name] = _of_prompt(variable) if name in rows.coords else variable
    data = xr.Dataset(variables, attrs=rows.attrs).set_coords(list(rows.coords))
    if "tokens" not in data.coords:
        # How many positions each category has in what was run.
        counts = [[[list(s.prompt.counts.values())] for s in starts] for starts in edits]
        tokens = xr.Variable((*axes, "category"), np.asarray(counts))
        data = data.assign_coords(category=list(CATEGORIES), tokens=_of_prompt(tokens))
    data = data.assign_coords(
        seed=list(seeds),
        prompt=range(len(prompts)),
        text=("prompt", [prompt.text for prompt in prompts]),
    )
    if names is None:
        return data.isel(patch=0, drop=True)
    return data.assign_coords(patch=list(names))


def _of_prompt(variable: xr.Variable) -> xr.Variable:
    """Drop the axes on which a prompt's description is constant: seed and, usually, patch."""
    if "seed" in variable.dims:
        variable = variable.isel(seed=0)
        first = variable.isel(patch=0)
        return first if bool((variable == first).all()) else variable
    return variable


def _per_row(result: Generated) -> xr.Dataset:
    """The results of one batch, along the axis `row`."""
    data = xr.Dataset() if result.recorded is None else _rows_of(result.recorded)
    variables: dict[str, Any] = {}
    if result.images is not None:
        variables["image"] = (("row", *PIXELS), result.images)
    if result.trace is not None:
        trace = result.trace
        variables["final_latents"] = (("row", *LATENT), result.latents.float().numpy())
        kept = {"latents": trace.latents, "eps_c": trace.eps_c, "eps_u": trace.eps_u}
        for name, values in kept.items():
            if values:
                variables[name] = (("row", "step", *LATENT), torch.stack(values, dim=1).numpy())
        variables["timestep"] = ("step", trace.timesteps)
        variables["alpha_bar"] = ("step", trace.alpha_bars)
        data = data.drop_vars("timestep", errors="ignore")
    data = data.assign(variables)
    return data.set_coords([name for name in ("timestep", "alpha_bar") if name in data])


def _rows_of(recorded: xr.Dataset) -> xr.Dataset:
    """A recorder's dataset, to which every row of the batch is a prompt with one image."""
    rows = recorded.isel(seed=0, drop=True).drop_vars(["prompt", "text"])
    return rows.rename(prompt="row").drop_attrs(deep=False)


def labels(edits: Any) -> tuple[list[str] | None, list[Any]]:
    """Return the labels of patches passed as a mapping or a sequence; None for a single patch.

    Example:
        >>> labels({"none": None, "h": zero("pad")})[0]
        ['none', 'h']
    """
    if isinstance(edits, Mapping):
        return [str(name) for name in edits], list(edits.values())
    if isinstance(edits, (list, tuple)):
        return ["none" if edit is None else repr(edit) for edit in edits], list(edits)
    return None, [edits]
