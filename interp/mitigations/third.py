"""Mitigations that lead away from a third prediction, at the price of one more UNet row a step."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from interp.errors import InterpError
from interp.mitigations.optimise import length, unit
from interp.patch import Patch, attenuate, repel
from interp.session import Session, Start
from interp.text.paraphrase import reordered, shortened, without_a_word
from interp.text.prompt import Prompt


def attenuate_and_repel(
    weight: float = 2.0,
    factor: float = 0.3,
    threshold: float = 0.1,
    layers: str | Sequence[str] = ("down", "mid"),
) -> Patch:
    """Follow the prompt with attention that stands out turned down, away from the one with it.

    Example:
        >>> sd.run(prompts, seeds=10, patch=attenuate_and_repel())

    `eps_u + w (eps_att - eps_u) - weight cos(pi i / 2N) (eps_c - eps_u)` at step i of N, with the
    pipeline's own w; `eps_att` is predicted under `attenuate`.

    Args:
        weight: of the repulsion; 2 in the README of the authors' code, 3 its default.
        factor, threshold: as in `attenuate`; the authors' are 0.3 and 0.1.
        layers: where attention is turned down; all but the up blocks in the authors' README.

    Source: Zhao et al., GUARD, 2026 (arXiv 2603.00133). Their code reworks z-scores with biases by
    category that are commented out, and orthogonalises guidance on request; neither is here.
    """
    return attenuate(factor, threshold, layers=layers) & repel(weight, fading=True)


@dataclass(frozen=True)
class Reanchor:
    """PRSS, with its settings; see `reanchor`."""

    low: float = 3.0
    high: float = 5.0
    enough: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high or not self.enough >= 0:
            raise InterpError(
                f"{self!r} was asked for.",
                "The norms low and high are positive, low is the smaller one, enough at least 0.",
                "Leave them out for the authors' settings.",
            )

    @torch.no_grad()
    def rewrite(self, session: Session, prompt: Prompt, seeds: Sequence[int]) -> Prompt | Start:
        """Return the rewording that is run, and what it is led away from."""
        if self._norm(session, prompt, seeds) <= self.high:
            return prompt
        norms: list[tuple[float, Prompt]] = []
        for text in rewordings(prompt.text):
            other = session.encode(text)
            norms.append((self._norm(session, other, seeds), other))
            if norms[-1][0] <= self.enough:
                break
        if not norms:
            return prompt
        best = min(norms, key=lambda pair: pair[0])[1]
        per_unit = unit(session.noise(0))
        between = (self.low / per_unit, self.high / per_unit)
        return Start(best, patch=repel(session.guidance - 1, prompt, between=between))

    def _norm(self, session: Session, prompt: Prompt, seeds: Sequence[int]) -> float:
        """The norm of guidance at the first step, in SD 1.4's units, averaged over seeds."""
        norms = [
            length(session.guidance_at_start(prompt, prompt.embeds, session.noise(seed)))
            for seed in seeds
        ]
        return float(torch.stack(norms).mean())

    def to_json(self) -> str:
        """Return what was done."""
        return json.dumps({"rewrite": "reanchor", **asdict(self)})


def reanchor(low: float = 3.0, high: float = 5.0, enough: float = 1.0) -> Reanchor:
    """Follow a rewording with less guidance, away from the prompt where guidance is large (PRSS).

    Example:
        >>> sd.run(prompts, seeds=range(4), patch=reanchor())

    Where the first step's `m = |eps_c - eps_u|` is above `high`, the first rewording with at most
    `enough` is run, or the one with least. At each of its steps `eps_o + s (eps_m - eps_o) + (w -
    s) (eps_m - eps_u)` with the original's prediction `eps_o`, where s grows with m from 1 at `low`
    to the guidance w at `high`. Other prompts are run as they are.

    Args:
        low, high, enough: in units of SD 1.4's latent; 3, 5 and 1 in the authors' code.

    Source: Chen et al., CVPR 2025 (arXiv 2504.18032). Their rewordings are 25 of a language
    model's, ours `rewordings`; their code re-anchors every prompt.
    """
    return Reanchor(low, high, enough)


def rewordings(text: str) -> Iterator[str]:
    """Texts that say about the same, without a language model, the nearest first.

    Example:
        >>> next(rewordings("Classic Orchard Area Rug by Tom Meyer"))
        'by Tom Meyer Classic Orchard Area Rug'
    """
    found = dict.fromkeys([reordered(text), *without_a_word(text), shortened(text)])
    return (other for other in found if other != text)
