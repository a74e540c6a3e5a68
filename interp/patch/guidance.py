"""Guidance as a patch: what becomes of the conditional and the unconditional prediction.

A pipeline mixes them as `eps_u + guidance * (eps_c - eps_u)`. `guide` mixes them by another weight
in some steps, on what the denoiser returns, so it works with any scheduler and beside any other
patch. Not for models with distilled guidance (LCM, Flux), which have no two predictions to mix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.clock import StepClock
from interp.denoiser.epsilon import alpha_bar, prediction, to_epsilon
from interp.errors import InterpError
from interp.patch.base import Operation
from interp.patch.operations import OPERATIONS
from interp.transformer.family import calls

if TYPE_CHECKING:
    from interp.patch.applied import Applied
    from interp.patch.at import At

Until = Literal["minimum"] | None
Latents = Float[Tensor, "row c h w"]


@dataclass(frozen=True, repr=False)
class Guide(Operation):
    """Another weight of guidance, in some steps; its categories are all, the whole prompt's."""

    EDITS: ClassVar[Literal["prediction"]] = "prediction"  # type: ignore[assignment]

    weight: float = 1.0
    until: Until = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.weight) or self.until not in (None, "minimum"):
            raise InterpError(
                f"{self!r} was asked for.",
                "The weight is a finite number, and until is None or 'minimum'.",
                "Say guide(0, steps=slice(0, 25)) for no guidance in the first half of 50 steps.",
            )

    def __repr__(self) -> str:
        until = [] if self.until is None else [f"until={self.until!r}"]
        return self._call([f"{self.weight:g}", *until])


class Guidance:
    """What `guide` does on one denoiser, after it ran.

    Both predictions of an image become the mixture, so that whatever the pipeline makes of the two
    is the mixture again, bit for bit.
    """

    def __init__(self) -> None:
        self._norms: list[Float[Tensor, " image"]] = []

    def mix(
        self, applied: Sequence[tuple[Applied, At]], args: tuple, kwargs: dict, output: Any
    ) -> Any:
        """What the denoiser returned, with the mixtures of guided images in it; None without any.

        Raises:
            InterpError: there are no unconditional rows, or steps were left out.
        """
        owner, first = applied[0]
        rows, step = first.reader.batch, first.clock.step
        guides = [
            [
                operation
                for _, at in applied
                for operation in at.on_image(image)
                if isinstance(operation, Guide) and operation.where.at_step(step)
            ]
            for image in range(len(rows.prompts) - rows.uncond)
        ]
        asked = [guide for mine in guides for guide in mine]
        if not asked:
            return None
        if not rows.uncond:
            raise InterpError(
                f"{asked[0]!r} was asked for.",
                "The pipeline runs without guidance: there is no unconditional prediction to mix.",
                f"Run it with {calls(owner.pipe).guide}.",
            )
        for _, at in applied:
            at.touched |= at.heads.keys() & asked
        over = [False] * len(guides)
        if any(guide.until is not None for guide in asked):
            name = "sample" if "sample" in kwargs else "hidden_states"
            sample = args[0] if args else kwargs[name]
            over = self._over(owner.pipe.scheduler, first.clock, output[0], sample)
        split = "(half image) c h w -> half image c h w"
        eps_u, eps_c = rearrange(output[0], split, half=2)
        mixture = output[0].clone()
        mixed_u, mixed_c = rearrange(mixture, split, half=2)
        for image, mine in enumerate(guides):
            for guide in mine:
                if guide.until is None or not over[image]:
                    difference = eps_c[image] - eps_u[image]
                    mixed_u[image] = mixed_c[image] = eps_u[image] + guide.weight * difference
        if isinstance(output, tuple):
            return (mixture, *output[1:])
        return type(output)(sample=mixture)

    def _over(
        self, scheduler: Any, clock: StepClock, output: Latents, sample: Latents
    ) -> list[bool]:
        """For each image, whether the norm of `eps_c - eps_u` has passed its first minimum."""
        if clock.step == 0:
            self._norms = []
        if clock.step != len(self._norms):
            raise InterpError(
                f"guide(until='minimum') was asked for at step {clock.step}.",
                f"It must see every step of a run from the first on, and saw {len(self._norms)}.",
                "Leave out steps=, and do not set the step by hand.",
            )
        abar = alpha_bar(scheduler, clock.timestep)
        # Without donors' rows, and without variances, which some models predict too.
        sample, output = sample[: len(output)], output[:, : sample.shape[1]]
        eps = to_epsilon(output, sample, abar, prediction(scheduler))
        eps_u, eps_c = rearrange(eps, "(half image) c h w -> half image (c h w)", half=2)
        self._norms.append((eps_c - eps_u).norm(dim=1).cpu())
        norms = torch.stack(self._norms)
        falls, rises = norms[:-2] > norms[1:-1], norms[1:-1] < norms[2:]
        return (falls & rises).any(dim=0).tolist()


# Patches are read from JSON by the names in this table.
OPERATIONS["guide"] = Guide
