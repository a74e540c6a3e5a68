"""What a run starts from: a prompt, noise, and a patch.

A session makes one from each patch; a mitigation that needs more than a patch returns one, with
another prompt or other noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from interp.errors import InterpError
from interp.patch import Patch
from interp.text.prompt import Prompt

if TYPE_CHECKING:
    from interp.session.session import Session


Correct = Callable[[int, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Start:
    """How one prompt is run, for all its seeds.

    Attributes:
        prompt: the prompt to run.
        latents: unit noise for each seed; None draws it from the seed.
        patch: on the pipeline while it runs.
        correct: given the number of a step and one image's latent `[c, h, w]` before and after it,
            returns the latent that the run goes on with.
    """

    prompt: Prompt
    latents: Float[Tensor, "seed c h w"] | None = None
    patch: Patch | None = None
    correct: Correct | None = None


@runtime_checkable
class Rewrite(Protocol):
    """A mitigation that changes the input of a run: the prompt or the noise."""

    def rewrite(self, session: Session, prompt: Prompt, seeds: Sequence[int]) -> Prompt | Start:
        """Return what to run instead, for these seeds."""
        ...

    def to_json(self) -> str:
        """Return a description for provenance."""
        ...


def for_prompts(
    latents: Tensor | None, prompts: int, shape: tuple[int, int, int, int]
) -> list[Float[Tensor, "seed c h w"] | None]:
    """The user's latents, split by prompt.

    Example:
        >>> for_prompts(torch.randn(4, 4, 64, 64), 2, (4, 4, 64, 64))     # shared by both prompts

    Args:
        latents: `[seed, c, h, w]` or `[prompt, seed, c, h, w]`.
        shape: the shape of one prompt's latents.

    Raises:
        InterpError: the shape is wrong.
    """
    if latents is None:
        return [None] * prompts
    if tuple(latents.shape) == shape:
        return [latents] * prompts
    if tuple(latents.shape) == (prompts, *shape):
        return list(latents)
    raise InterpError(
        f"latents of shape {tuple(latents.shape)} were passed.",
        f"These {prompts} prompts and {shape[0]} seeds take {shape} or {(prompts, *shape)}.",
        "Pass unit noise for every seed; sd.noise(seed) is that of one.",
    )
