"""Guidance as a patch: how the conditional and unconditional predictions are mixed.

A pipeline mixes them as `eps_u + guidance * (eps_c - eps_u)`. `guide` mixes them by another weight
in some steps, and `repel` leads away from a third prediction, that of another prompt or of the
unpatched one; both act on what the denoiser returns, so they work with any scheduler and beside any
other patch. Not for models with distilled guidance (LCM, Flux), which have no two predictions to
mix.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeGuard

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from interp.denoiser.clock import StepClock
from interp.denoiser.epsilon import alpha_bar, prediction, to_epsilon
from interp.denoiser.hooks import aside
from interp.errors import InterpError
from interp.patch.base import Operation
from interp.patch.operations import OPERATIONS, fits
from interp.text.prompt import Prompt
from interp.transformer.family import calls

if TYPE_CHECKING:
    from interp.patch.applied import Applied
    from interp.patch.at import At

Until = Literal["minimum"] | None


@dataclass(frozen=True, repr=False)
class Guide(Operation):
    """Another guidance weight in some steps; its categories are always all of them."""

    EDITS: ClassVar[Literal["prediction"]] = "prediction"  # type: ignore[assignment]

    weight: float = 1.0
    until: Until = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.weight) or self.until not in (None, "minimum"):
            raise InterpError(
                f"{self!r} was asked for.",
                "The weight is a finite number, and until is None or 'minimum'.",
                "Use guide(0, steps=slice(0, 25)) for no guidance in the first half of 50 steps.",
            )

    def __repr__(self) -> str:
        until = [] if self.until is None else [f"until={self.until!r}"]
        return self._call([f"{self.weight:g}", *until])


@dataclass(frozen=True, repr=False)
class Repel(Operation):
    """Guidance away from a third prediction: a donor's, or the prompt's own without patches."""

    EDITS: ClassVar[Literal["prediction"]] = "prediction"  # type: ignore[assignment]

    weight: float = 1.0
    donor: Prompt | None = None
    between: tuple[float, float] | None = None
    fading: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.between or (0.0, 1.0)
        if not (math.isfinite(self.weight) and 0 <= low < high):
            raise InterpError(
                f"{self!r} was asked for.",
                "The weight is a finite number, and between= two norms, the smaller one first.",
                "Say repel(2) for everywhere, repel(6.5, between=(3, 5)) where guidance is large.",
            )

    @property
    def idle(self) -> bool:
        # Where guidance stays small it has nothing to do, which is what it is for.
        return self.weight == 0 or self.between is not None

    @property
    def donors(self) -> tuple[Prompt, ...]:
        return () if self.donor is None else (self.donor,)

    def given(self, donors: Sequence[Prompt]) -> Operation:
        return replace(self, donor=donors[0]) if donors else self

    def strength(self, norm: float, progress: float) -> float:
        """The weight where guidance has this norm, this far in the run, from 0 to 1."""
        weight = self.weight * (math.cos(math.pi / 2 * progress) if self.fading else 1)
        if self.between is None:
            return weight
        low, high = self.between
        return weight * min(1.0, max(0.0, (norm - low) / (high - low)))

    def __repr__(self) -> str:
        shown = [f"{self.weight:g}"]
        shown += [] if self.donor is None else [f"donor={self.donor!r}"]
        shown += [] if self.between is None else [f"between={self.between}"]
        return self._call(shown + ["fading=True"] * self.fading)


class Guidance:
    """What `guide` and `repel` do on one denoiser, after it ran.

    Both predictions of an image become the mixture, so that whatever the pipeline makes of the two
    is the mixture again, bit for bit; to both the same is added, which is then added to it.
    """

    def __init__(self) -> None:
        self._norms: list[Float[Tensor, " image"]] = []

    def mix(
        self,
        denoiser: nn.Module,
        applied: Sequence[tuple[Applied, At]],
        args: tuple,
        kwargs: dict,
        output: Any,
    ) -> Any:
        """The denoiser's output with the mixtures of guided images; None if there are none.

        Raises:
            InterpError: there are no unconditional rows, or steps were skipped.
        """
        owner, first = applied[0]
        rows, step = first.reader.batch, first.clock.step
        asked = [
            [
                operation
                for _, at in applied
                for operation in at.on_image(image)
                if operation.EDITS == "prediction" and operation.where.at_step(step)
            ]
            for image in range(len(rows.prompts) - rows.uncond)
        ]
        every = list(chain.from_iterable(asked))
        if not every:
            return None
        if not rows.uncond:
            raise InterpError(
                f"{every[0]!r} was asked for.",
                "The pipeline runs without guidance: there is no unconditional prediction to mix.",
                f"Run it with {calls(owner.pipe).guide}.",
            )
        for _, at in applied:
            at.touched |= at.heads.keys() & every
        scheduler = owner.pipe.scheduler
        sample = args[0] if args else kwargs["sample" if "sample" in kwargs else "hidden_states"]
        over = [False] * len(asked)
        if any(getattr(operation, "until", None) is not None for operation in every):
            over = self._over(first.clock, _norms(scheduler, first.clock, output[0], sample))
        split = "(half image) c h w -> half image c h w"
        eps_u, eps_c = rearrange(output[0], split, half=2)
        mixture = output[0].clone()
        mixed_u, mixed_c = rearrange(mixture, split, half=2)
        for image, mine in enumerate(asked):
            for guide in mine:
                if isinstance(guide, Guide) and (guide.until is None or not over[image]):
                    difference = eps_c[image] - eps_u[image]
                    mixed_u[image] = mixed_c[image] = eps_u[image] + guide.weight * difference
        repels = [(n, one) for n, mine in enumerate(asked) for one in mine if _is_repel(one)]
        if repels:
            norms = _norms(scheduler, first.clock, output[0], sample).tolist()
            progress = step / len(scheduler.timesteps)
            weights = [one.strength(norms[image], progress) for image, one in repels]
            acting = [(*pair, w) for pair, w in zip(repels, weights, strict=True) if w]
            third = _third(denoiser, args, kwargs, [pair[:2] for pair in acting])
            for (image, _, weight), other in zip(acting, third, strict=True):
                push = weight * (other - eps_u[image])
                mixed_u[image] -= push
                mixed_c[image] -= push
        if isinstance(output, tuple):
            return (mixture, *output[1:])
        return type(output)(sample=mixture)

    def _over(self, clock: StepClock, norms: Float[Tensor, " image"]) -> list[bool]:
        """For each image, whether the norm of `eps_c - eps_u` has passed its first minimum."""
        if clock.step == 0:
            self._norms = []
        if clock.step != len(self._norms):
            raise InterpError(
                f"guide(until='minimum') was asked for at step {clock.step}.",
                f"It must see every step of a run from the first on, but saw {len(self._norms)}.",
                "Leave out steps=, and do not set the step by hand.",
            )
        self._norms.append(norms)
        known = torch.stack(self._norms)
        falls, rises = known[:-2] > known[1:-1], known[1:-1] < known[2:]
        return (falls & rises).any(dim=0).tolist()


def _is_repel(operation: Operation) -> TypeGuard[Repel]:
    return isinstance(operation, Repel)


def _norms(
    scheduler: Any,
    clock: StepClock,
    output: Float[Tensor, "row predicted h w"],
    sample: Float[Tensor, "all c h w"],
) -> Float[Tensor, " image"]:
    """The norm of `eps_c - eps_u` of each image."""
    abar = alpha_bar(scheduler, clock.timestep)
    # Without donors' rows, and without variances, which some models predict too.
    sample, output = sample[: len(output)], output[:, : sample.shape[1]]
    eps = to_epsilon(output, sample, abar, prediction(scheduler))
    eps_u, eps_c = rearrange(eps, "(half image) c h w -> half image (c h w)", half=2)
    return (eps_c - eps_u).norm(dim=1).cpu()


def _third(
    denoiser: nn.Module, args: tuple, kwargs: dict, asked: Sequence[tuple[int, Repel]]
) -> list[Float[Tensor, "c h w"]]:
    """What the denoiser predicts of these images for other text, or for their own, unpatched."""
    if not asked:
        return []
    given = inspect.signature(denoiser.forward).bind(*args, **kwargs).arguments
    text = given["encoder_hidden_states"]
    rows = torch.tensor([len(text) // 2 + image for image, _ in asked], device=text.device)
    given = {name: _at_rows(value, rows, len(text)) for name, value in given.items()}
    own, added = list(given["encoder_hidden_states"]), given.get("added_cond_kwargs") or {}
    for place, (_, repel) in enumerate(asked):
        donor = repel.donor
        if donor is None:
            continue
        fits(repel, own[place], donor)
        own[place] = donor.embeds.to(own[place])
        if donor.pooled is not None and "text_embeds" in added:
            added["text_embeds"][place] = donor.pooled.to(text)
    given["encoder_hidden_states"] = torch.stack(own)
    with aside():
        return list(denoiser(**given)[0])


def _at_rows(value: Any, rows: Tensor, batch: int) -> Any:
    """An argument for some rows of a batch."""
    if isinstance(value, dict):
        return {name: _at_rows(part, rows, batch) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_at_rows(part, rows, batch) for part in value)
    if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != batch:
        return value
    return value[rows]


# Patches are read from JSON by the names in this table.
OPERATIONS["guide"] = Guide
OPERATIONS["repel"] = Repel
