"""A mitigation that watches the latent: a step that leaves the usual band is cut back to it.

No prompt, embedding or guidance is changed, and nothing is predicted again. What is usual has to be
measured on ordinary prompts of the same session: it depends on sampler, steps and guidance.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import InterpError
from interp.results.numbers import Seeds
from interp.session import Session, Start
from interp.text.prompt import Prompt


@dataclass(frozen=True)
class StableSteps:
    """A cap on each step's update, with its values; see `stable_steps`."""

    most: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.most or not all(cap > 0 for cap in self.most):
            raise InterpError(
                f"Steps were to be kept below {self.most}.",
                "There is a positive norm for every step.",
                "Measure them: usual_steps(sd, captions).",
            )

    def rewrite(self, session: Session, prompt: Prompt, seeds: Sequence[int]) -> Start:
        """Return the prompt with the cap on its steps."""
        if len(self.most) != session.steps:
            raise InterpError(
                f"Steps were to be kept below {len(self.most)} norms.",
                f"The session has {session.steps} steps.",
                "Measure them with the same session.",
            )
        return Start(prompt, correct=self.correct)

    def correct(
        self, step: int, before: Float[Tensor, "c h w"], after: Float[Tensor, "c h w"]
    ) -> Float[Tensor, "c h w"]:
        """Return the latent after a step, its update scaled back where it is too long."""
        update = after - before
        excess = update.float().norm() / self.most[step]
        return before + update / excess.to(update) if excess > 1 else after

    def to_json(self) -> str:
        """Return what was done."""
        return json.dumps({"rewrite": "stable_steps", **asdict(self)})


@dataclass(frozen=True)
class _Watch:
    """Changes nothing, and keeps the norm of every update, by step."""

    norms: dict[int, list[float]] = field(default_factory=dict)

    def rewrite(self, session: Session, prompt: Prompt, seeds: Sequence[int]) -> Start:
        return Start(prompt, correct=self._see)

    def _see(self, step: int, before: Tensor, after: Tensor) -> Tensor:
        self.norms.setdefault(step, []).append(float((after - before).float().norm()))
        return after

    def to_json(self) -> str:
        return json.dumps({"rewrite": "nothing"})


def usual_steps(
    session: Session,
    prompts: Sequence[str | Prompt],
    seeds: Seeds = 2,
    quantile: float = 0.995,
) -> StableSteps:
    """Measure how long updates of ordinary prompts are, and cap others there.

    Example:
        >>> shield = usual_steps(sd, captions, seeds=4)
        >>> sd.run(prompts, seeds=range(4), patch=shield)

    Args:
        session, prompts, seeds: what is run; a quantile of 0.995 wants some hundred images.
        quantile: of the norms of each step.

    Source: as `stable_steps`.
    """
    watch = _Watch()
    session.run(prompts, seeds, watch)
    steps = sorted(watch.norms)
    return stable_steps([float(np.quantile(watch.norms[step], quantile)) for step in steps])


def stable_steps(most: Sequence[float]) -> StableSteps:
    """Cut every update of the latent that is longer than usual back to the usual length.

    Example:
        >>> sd.run(prompts, seeds=range(4), patch=stable_steps([9.0] * 50))

    `usual_steps` measures the norms.

    Args:
        most: the largest usual norm of every step's update, of latents as the pipeline has them.

    Source: Huang et al., "Broken Memories", KDD 2026 (arXiv 2605.22050), of which there is no code:
    that updates outside a region that is stable for ordinary prompts are corrected at once is
    theirs; a cap at a quantile, and scaling back to it, are ours.
    """
    return StableSteps(tuple(map(float, most)))
