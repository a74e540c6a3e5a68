"""Mitigations that start from other noise, where guidance `eps_c - eps_u` is small.

A memorized prompt has large guidance from the first step on for most initial noise, but not for
all. These look for noise outside the basin and leave prompt and embeddings alone: the image still
follows the prompt, but is not the one that the seed would give without them.

All lengths are in units of SD 1.4's latent (4 x 64 x 64), rescaled by the root of the number of
elements, as in `optimise_embedding`.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InterpError
from interp.mitigations.optimise import length, unit
from interp.patch import guide
from interp.session import Session, Start
from interp.text.prompt import Prompt

Noise = Float[Tensor, "1 c h w"]
Guidance = Callable[[Noise], Noise]


@dataclass(frozen=True)
class AdjustNoise:
    """Han et al.'s batch-wise adjustment, with its settings; see `adjust_noise`."""

    iterations: int = 2
    rate: float = 0.7
    radius: float = 50.0
    unguided: int = 5

    def __post_init__(self) -> None:
        _settings(self, ("iterations", "rate", "radius", "unguided"))

    def rewrite(self, session: Session, prompt: Prompt, seeds: Sequence[int]) -> Start:
        """Return the prompt with adjusted noise for each seed."""
        found = torch.cat([self._adjusted(session, prompt, seed) for seed in seeds])
        early = guide(0, steps=slice(0, self.unguided)) if self.unguided else None
        return Start(prompt, found, early)

    @torch.no_grad()
    def _adjusted(self, session: Session, prompt: Prompt, seed: int) -> Noise:
        noise = session.noise(seed)
        for _ in range(self.iterations):
            here = session.guidance_at_start(prompt, prompt.embeds, noise)
            away = noise + self.radius / unit(here) * here / here.norm().clamp_min(1e-12)
            there = session.guidance_at_start(prompt, prompt.embeds, away)
            noise = noise - self.rate * (there - here)
        return noise

    def to_json(self) -> str:
        """Return what was done."""
        return json.dumps({"rewrite": "adjust_noise", **asdict(self)})


@dataclass(frozen=True)
class _Descent(ABC):
    """Adam on the noise of each seed by itself, until a loss is at most the target."""

    NAME: ClassVar[str]

    target: float
    learning_rate: float
    iterations: int

    def __post_init__(self) -> None:
        _settings(self, [field.name for field in fields(self)])

    @abstractmethod
    def loss(self, guidance: Guidance, noise: Noise) -> Float[Tensor, ""]:
        """What is to become small."""

    def rewrite(self, session: Session, prompt: Prompt, seeds: Sequence[int]) -> Start:
        """Return the prompt with the noise that was found for each seed."""

        def guidance(noise: Noise) -> Noise:
            return session.guidance_at_start(prompt, prompt.embeds, noise)

        found = [self._found(guidance, session.noise(seed)) for seed in seeds]
        return Start(prompt, torch.cat(found))

    def _found(self, guidance: Guidance, start: Noise) -> Noise:
        noise = start.float().requires_grad_()
        optimiser = torch.optim.Adam([noise], lr=self.learning_rate)
        for _ in range(self.iterations):
            value = self.loss(guidance, noise.to(start))
            if value <= self.target:
                break
            (noise.grad,) = torch.autograd.grad(value, noise)
            optimiser.step()
        return noise.detach().to(start)

    def to_json(self) -> str:
        """Return what was done."""
        return json.dumps({"rewrite": self.NAME, **asdict(self)})


@dataclass(frozen=True)
class OptimiseNoise(_Descent):
    """Han et al.'s per-sample optimisation, with its settings; see `optimise_noise`."""

    NAME = "optimise_noise"

    def loss(self, guidance: Guidance, noise: Noise) -> Float[Tensor, ""]:
        return length(guidance(noise))


@dataclass(frozen=True)
class SharpnessAwareNoise(_Descent):
    """SAIL, with its settings; see `sharpness_aware_noise`."""

    NAME = "sharpness_aware_noise"

    weight: float

    def loss(self, guidance: Guidance, noise: Noise) -> Float[Tensor, ""]:
        with torch.no_grad():
            here = guidance(noise)
            towards = here / here.norm().clamp_min(1e-12) / unit(here)
        return length(guidance(noise + towards)) + self.weight * length(noise)


def adjust_noise(
    iterations: int = 2, rate: float = 0.7, radius: float = 50.0, unguided: int = 5
) -> AdjustNoise:
    """Move the initial noise against the sharpness of guidance, without gradients.

    Example:
        >>> sd.images(prompt, seeds=range(4), patch=adjust_noise())

    Each iteration is `x <- x - rate * (g(x + radius * g(x) / |g(x)|) - g(x))`, where `g` is
    `eps_c - eps_u` at the first step. It costs four UNet rows for each seed.

    Args:
        iterations: 2 in the authors' code, as are the other defaults.
        rate: step size.
        radius: how far away `g` is evaluated a second time.
        unguided: how many first steps run without guidance.

    Source: Han et al., "Adjusting Initial Noise to Mitigate Memorization in Text-to-Image Diffusion
    Models", NeurIPS 2025 (arXiv 2510.08625), batch-wise. Their guidance is 7 and their precision
    bfloat16, in which `g(x + d) - g(x)` has two digits; here it is the session's and the model's.
    """
    return AdjustNoise(iterations, rate, radius, unguided)


def optimise_noise(
    target: float = 0.9, learning_rate: float = 0.01, iterations: int = 100
) -> OptimiseNoise:
    """Change the initial noise of each seed until guidance at the first step is small.

    Example:
        >>> sd.images(prompt, seeds=range(4), patch=optimise_noise())

    By Adam on `|eps_c - eps_u|`; it stops before a step whose norm is at most the target. Each
    iteration costs two UNet rows and their backward passes, for each seed.

    Args:
        target: 0.9 in the authors' code.
        learning_rate: 0.01 in the authors' code.
        iterations: at most this many; theirs may take 1,000, most need a tenth.

    Source: Han et al. (see `adjust_noise`), per sample. They use AdamW, whose weight decay shrinks
    the noise, so that it is no longer standard Gaussian.
    """
    return OptimiseNoise(target, learning_rate, iterations)


def sharpness_aware_noise(
    target: float = 8.2, weight: float = 0.05, learning_rate: float = 0.05, iterations: int = 10
) -> SharpnessAwareNoise:
    """Look for initial noise around which guidance stays small (SAIL).

    Example:
        >>> sd.images(prompt, seeds=range(4), patch=sharpness_aware_noise())

    By Adam on `|g(x + g(x) / |g(x)|)| + weight * |x|`, where `g` is `eps_c - eps_u` at the first
    step; it stops before a step whose value is at most the target. Each iteration costs four UNet
    rows and two backward passes, for each seed.

    Args:
        target: 8.2 in the authors' code; at SD 1.4's size `weight * |x|` alone is 6.4.
        weight: of the length of the noise: 0.05 for SD 1, 0.01 for SD 2.
        learning_rate: 0.05 in the authors' code.
        iterations: at most this many, 10 in the authors' code.

    Source: Jeon et al., ICML 2025 (arXiv 2412.04140), algorithm 2. The paper minimises
    `|g(x + d) - g(x)|`; its code, to which the target belongs, `|g(x + d)|`, as here. The code
    computes the direction only once; draws new candidates until enough are below the target, some
    of them duplicates; raises the target if too few are found; and takes SD 2's velocities with the
    wrong sign.
    """
    return SharpnessAwareNoise(target, learning_rate, iterations, weight)


def _settings(mitigation: object, names: Sequence[str]) -> None:
    """Raise for a setting that is negative, infinite or NaN."""
    for name in names:
        value = getattr(mitigation, name)
        if not 0 <= value < float("inf"):
            raise InterpError(
                f"{mitigation!r} was asked for.",
                f"{name} is a finite number, and at least 0.",
                "Leave it out for the authors' setting.",
            )
