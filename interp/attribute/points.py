"""Points of the clean trajectory: the UNet's inputs in the unpatched run, step by step.

Direct effects and gradients are taken there: the latents and the unconditional predictions are
those of the unpatched run, so one conditional row replaces a whole generation. Since the steps are
then independent, rows of different steps share a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import xarray as xr
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from interp.denoiser import unet_call
from interp.denoiser.epsilon import alpha_bar
from interp.denoiser.memory import images_at_once
from interp.denoiser.pipelines import denoiser
from interp.errors import InterpError
from interp.patch import Where
from interp.patch.where import Steps
from interp.session import Session
from interp.session.settings import text_alone
from interp.text.prompt import Prompt
from interp.transformer.family import calls


@dataclass(frozen=True, eq=False)
class Points:
    """Points on the clean trajectories of one prompt, one row each, ordered by seed and step."""

    prompt: Prompt
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    step: tuple[int, ...]
    latents: Float[Tensor, "row c h w"]
    timestep: Float[Tensor, " row"]
    alpha_bar: tuple[float, ...]
    eps_c: Float[Tensor, "row c h w"]
    eps_u: Float[Tensor, "row c h w"]
    spent: int
    """UNet rows spent to get here."""

    def __len__(self) -> int:
        return len(self.step)

    def __getitem__(self, rows: Sequence[int]) -> Points:
        chosen = list(rows)
        return replace(
            self,
            step=tuple(self.step[row] for row in chosen),
            alpha_bar=tuple(self.alpha_bar[row] for row in chosen),
            latents=self.latents[chosen],
            timestep=self.timestep[chosen],
            eps_c=self.eps_c[chosen],
            eps_u=self.eps_u[chosen],
        )

    def table(self, values: Float[Tensor, " row"]) -> xr.DataArray:
        """Values of all points on the axes `(seed, step)`."""
        lengths = {"seed": len(self.seeds), "step": len(self.steps)}
        return xr.DataArray(
            rearrange(values, "(seed step) -> seed step", **lengths).numpy(),
            coords={"seed": list(self.seeds), "step": list(self.steps)},
            dims=("seed", "step"),
        )


def clean_points(
    session: Session, prompt: Prompt, seeds: Sequence[int], steps: Steps | str = None
) -> Points:
    """Run the prompt without a patch, and return the UNet's inputs at the chosen steps.

    The input of the first step is noise, so that step alone needs no run.

    Example:
        >>> points = clean_points(sd, a, seeds=range(4), steps=slice(0, 10))

    Raises:
        InterpError: the session has no guidance, so no unconditional predictions, or the run has
            no such steps.
    """
    if not session.guided:
        raise InterpError(
            f"The clean trajectory was asked for with guidance {session.guidance}.",
            "Without guidance the unconditional noise is never predicted.",
            f"Use a session with {calls(session.pipe).guide}.",
        )
    chosen = chosen_steps(steps, unet_call.calls_per_run(session.pipe, session.steps))
    if chosen == [0]:
        size = (session.height, session.width)
        first = unet_call.first_step(session.pipe, seeds, session.steps, *size)
        return points_at(session, prompt, seeds, *first[:2])
    trace = session.trace(prompt, seeds, half=False).isel(prompt=0)
    return points_of(session, prompt, trace, chosen)


def points_of(session: Session, prompt: Prompt, trace: xr.Dataset, steps: Sequence[int]) -> Points:
    """The same from a run that was traced in float32, with all its seeds.

    Example:
        >>> points_of(sd, a, sd.trace(a, seeds=4, half=False).isel(prompt=0), [0, -1])
    """
    calls, seeds = trace.sizes["step"], trace.seed.values.tolist()
    trace = trace.isel(step=list(steps))
    device, dtype = session.pipe._execution_device, denoiser(session.pipe).dtype

    def rows(name: str) -> Tensor:
        values = torch.from_numpy(trace[name].transpose("seed", "step", ...).values)
        return rearrange(values, "seed step c h w -> (seed step) c h w").to(device)

    def per_row(name: str) -> Tensor:
        values = torch.from_numpy(trace[name].values)
        return repeat(values, "step -> (seed step)", seed=len(seeds))

    return Points(
        prompt,
        tuple(seeds),
        tuple(steps),
        tuple(steps) * len(seeds),
        rows("latents").to(dtype),
        per_row("timestep").float().to(device),
        tuple(per_row("alpha_bar").tolist()),
        rows("eps_c"),
        rows("eps_u"),
        2 * calls * len(seeds),
    )


def chosen_steps(steps: Steps | str, calls: int) -> list[int]:
    """The steps of a run that `steps` selects; "all" and None select all.

    Example:
        >>> chosen_steps(slice(40, None), calls=50)[:2]
        [40, 41]

    Raises:
        InterpError: it selects none.
    """
    if isinstance(steps, str):
        steps = None if steps == "all" else ()
    found = [] if steps == () else [s for s in range(calls) if Where(steps=steps).at_step(s)]
    if not found:
        raise InterpError(
            "Steps of a run were selected.",
            f"It has {calls} steps, counted from 0, and none of them was selected.",
            "Pass a number, several, a slice, or 'all'.",
        )
    return found


@torch.no_grad()
def points_at(
    session: Session,
    prompt: Prompt,
    seeds: Sequence[int],
    latents: Float[Tensor, "row c h w"],
    timestep: Float[Tensor, ""],
) -> Points:
    """The same from given latents, one row for each seed, with both predictions for each.

    Example:
        >>> points_at(sd, a, [0], sd.noise(0), torch.tensor(41.0))     # noise, called nearly clean

    Args:
        latents: the UNet's input (after the scheduler's input scaling).
        timestep: the UNet's timestep; see `unet_call.first_step` for both of the first step.
    """
    abar = alpha_bar(session.pipe.scheduler, float(timestep))
    points = Points(
        prompt,
        tuple(seeds),
        (0,),
        (0,) * len(seeds),
        latents,
        repeat(timestep.to(latents.device), "-> row", row=len(seeds)),
        (abar,) * len(seeds),
        latents,
        latents,
        2 * len(seeds),
    )
    pieces = [points[rows] for rows in chunks(len(points), rows_at_once(session))]
    empty = session.unconditional
    return replace(
        points,
        eps_c=torch.cat([predict(session, piece, prompt.embeds) for piece in pieces]),
        eps_u=torch.cat(
            [predict(session, replace(piece, prompt=empty), empty.embeds) for piece in pieces]
        ),
    )


def predict(
    session: Session,
    points: Points,
    embeds: Float[Tensor, "position channel"] | Float[Tensor, "row position channel"],
    copies: int = 1,
) -> Float[Tensor, "copyrow c h w"]:
    """The conditional noise prediction at every point, `copies` times over.

    Example:
        >>> predict(sd, points, a.embeds)

    Args:
        embeds: one for all rows, or one for each.
        copies: how often to repeat the points, as a whole.
    """
    text_alone(session)
    latents = repeat(points.latents, "row c h w -> (copy row) c h w", copy=copies)
    timestep = repeat(points.timestep, "row -> (copy row)", copy=copies)
    if embeds.ndim == 2:
        embeds = repeat(embeds, "position channel -> row position channel", row=len(latents))
    at = (latents, timestep, points.alpha_bar * copies)
    return unet_call.predict(session.pipe, *at, embeds, points.prompt, session.guidance)


def rows_at_once(session: Session) -> int:
    """How many conditional rows fit into the session's memory budget."""
    return images_at_once(session.pipe, session.height, session.width, False, session.budget)


def chunks(count: int, most: int) -> Iterator[range]:
    """Ranges of at most `most` rows.

    Example:
        >>> list(chunks(5, 2))
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    for first in range(0, count, most):
        yield range(first, min(first + most, count))
