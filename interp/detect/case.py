"""One prompt under examination: what detectors look at, made when first looked at, and only once.

Detectors that read a trace need no case. Those that need gradients, several images, the training
image or controls take one, and so share a single run however many of them are asked.
"""

from __future__ import annotations

from functools import cached_property

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.attribute.points import Points, clean_points, points_at, points_of
from interp.detect.scores import recorders
from interp.errors import InterpError
from interp.metrics.images import Images
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.session.settings import of_unet
from interp.text.prompt import Prompt


class Case:
    """A prompt, its seeds, and whatever else is known.

    Example:
        >>> case = Case(sd, "Antique Church Poster in Berlin", seeds=4)
        >>> sharpness(case)                                 # (seed)
        >>> detect.examine(case)                            # all that it has what they need

    Args:
        session, prompt, seeds: what is generated; one image for each seed.
        training: the image that the prompt may be a copy of, of the size that is generated.
        controls: the trace of prompts that are not memorized, of the same session.

    Raises:
        InterpError: for a transformer, of which `scan` scores traces.
    """

    def __init__(
        self,
        session: Session,
        prompt: str | Prompt,
        seeds: Seeds = range(4),
        *,
        training: Images | None = None,
        controls: xr.Dataset | None = None,
    ) -> None:
        of_unet(session, "A case for detectors")
        self.session = session
        (self.prompt,) = session._prompts(prompt)
        self.seeds = tuple(chosen_seeds(seeds))
        self.training, self.controls = training, controls

    @cached_property
    def trace(self) -> xr.Dataset:
        """The whole run with all that the detectors of traces read, in float32, and its images."""
        return self.session.trace(
            self.prompt,
            self.seeds,
            record=recorders(self.session.pipe),
            half=False,
            images=True,
        )

    @cached_property
    def images(self) -> xr.DataArray:
        """`(seed, pixel_y, pixel_x, rgb)`: the trace's, or of a run that keeps nothing else.

        Hundreds of seeds are few images, but many gigabytes of attention maps.
        """
        run = self.trace if "trace" in vars(self) else self.session.run(self.prompt, self.seeds)
        return run.image.isel(prompt=0, drop=True).transpose("seed", ...)

    @cached_property
    def noise(self) -> Float[Tensor, "seed c h w"]:
        """The unit noise of every seed."""
        return torch.cat([self.session.noise(seed) for seed in self.seeds])

    @cached_property
    def start(self) -> Points:
        """The first step of every seed, which is noise and needs no run: two UNet rows each."""
        return clean_points(self.session, self.prompt, self.seeds, 0)

    def told(self, latents: Float[Tensor, "seed c h w"], timestep: int | float) -> Points:
        """Given latents, whatever timestep the UNet is told: two UNet rows each.

        Example:
            >>> case.told(case.noise, 41)
        """
        when = torch.tensor(float(timestep))
        return points_at(self.session, self.prompt, self.seeds, latents, when)

    def at(self, step: int) -> Points:
        """A step of the run, one row for each seed; negative ones count from the end.

        Raises:
            InterpError: the run has no such step.
        """
        trace = self.trace.isel(prompt=0)
        calls = trace.sizes["step"]
        if not -calls <= step < calls:
            raise InterpError(
                f"Step {step} of a run was asked for.",
                f"It has {calls}, counted from 0.",
                "Ask for one of them; -1 is the last.",
            )
        return points_of(self.session, self.prompt, trace, [step % calls])

    def by_seed(self, name: str, values: Float[Tensor, " seed"]) -> xr.DataArray:
        """Numbers, one for each seed, by name."""
        return xr.DataArray(
            values.double().cpu().numpy(), {"seed": list(self.seeds)}, "seed", name=name
        )

    def __repr__(self) -> str:
        return f"Case({self.session!r}, {self.prompt!r}, seeds={list(self.seeds)})"
