"""Every mitigation as a row of one table: how it is made, what it needs and what it costs.

For comparing mitigations. A new one is one file, one line here, and one test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from interp import attribute
from interp import mitigations as field
from interp.attribute.silenced import SilenceNeurons
from interp.benchmark.causal_pads import causal_pads
from interp.metrics import Metric
from interp.patch import Patch, swap
from interp.report.subject import Subject
from interp.session import Rewrite, Session

Need = Literal["gradients", "text encoder", "ordinary prompts", "memorized prompts"]
"""Derivatives of the UNet; another encoding; and prompts to be fitted on, which judge none."""


@dataclass(frozen=True)
class Known:
    """What a mitigation is made from: a session, and prompts that are not among those that judge.

    Attributes:
        session: pipeline and settings.
        ordinary: prompts that are not memorized.
        memorized: prompts that are, with their training images.
        similarity, keeps: how copies are told, and from which similarity on.
        folder: where what was fitted is kept, so that a second run need not fit it again.
    """

    session: Session
    ordinary: tuple[str, ...] = ()
    memorized: tuple[Subject, ...] = ()
    similarity: Metric | None = None
    keeps: float = 0.5
    folder: Path | None = None


@dataclass(frozen=True)
class Mitigation:
    """A mitigation beside others.

    Attributes:
        make: makes it, with the authors' settings.
        source: who published it.
        needs: what it takes beside a stock pipeline.
        rows: UNet rows an image, beside those of the run, counted with all iterations.
        each_step: UNet rows that every step takes more.
    """

    make: Callable[[Known], Patch | Rewrite]
    source: str
    needs: tuple[Need, ...] = ()
    rows: int = 0
    each_step: int = 0

    def lacks(self, known: Known) -> list[str]:
        """Return what it needs and is not known.

        Example:
            >>> MITIGATIONS["usual steps"].lacks(Known(sd))
            ['ordinary prompts']
        """
        pictures = [one for one in known.memorized if one.image is not None]
        there = {
            "ordinary prompts": len(known.ordinary) > 1,
            "memorized prompts": bool(pictures) and known.similarity is not None,
        }
        return [need for need in self.needs if not there.get(need, True)]


def made(known: Known, methods: Mapping[str, Mitigation]) -> dict[str, Patch | Rewrite]:
    """Return the mitigations whose needs are met, by name.

    Example:
        >>> made(Known(sd), MITIGATIONS)["zero pad 70 %"]
        zero('pad', fraction=0.7)
    """
    return {name: one.make(known) for name, one in methods.items() if not one.lacks(known)}


def _static(known: Known) -> Patch:
    """In the first half of a run, as 25 of 50 steps are."""
    return field.static_transition(known.session.steps // 2)


def _opposite(known: Known) -> Patch:
    """In its first third, as 17 of 50 steps are."""
    return field.opposite_guidance(round(17 / 50 * known.session.steps))


def _fixed(patch: Patch | Rewrite) -> Callable[[Known], Patch | Rewrite]:
    return lambda known: patch


def _clean_pads(known: Known) -> Patch:
    return swap("pad", donor=known.session.encode(""), align="nearest")


def _usual_steps(known: Known) -> Rewrite:
    return field.usual_steps(known.session, known.ordinary)


def _silenced(known: Known) -> Rewrite:
    """NeMo's threshold: the mean and one deviation of what ordinary prompts' likeness is."""
    sd = known.session
    alike = [float(attribute.likeness(sd, text, 4).max()) for text in known.ordinary]
    usual = attribute.activations(sd, known.ordinary)
    return SilenceNeurons(usual, float(np.mean(alike) + np.std(alike, ddof=1)))


def _causal_pads(known: Known) -> Patch:
    return causal_pads(
        known.session, known.memorized, known.ordinary, known.similarity, known.keeps, known.folder
    )


#: All mitigations with the authors' settings, by name.
MITIGATIONS: Mapping[str, Mitigation] = {
    "repad '!' and zero eot": Mitigation(
        _fixed(field.repad_zero_eot()), "Kim & No 2026", ("text encoder",)
    ),
    "repad '!'": Mitigation(_fixed(field.repad()), "Kim & No 2026", ("text encoder",)),
    "zero pad 70 %": Mitigation(_fixed(field.zero_pads(0.7)), "Kim & No 2026"),
    "clean pads": Mitigation(_clean_pads, "Toker et al. 2025"),
    "causal pads": Mitigation(
        _causal_pads, "this package", ("ordinary prompts", "memorized prompts")
    ),
    "rescaled sot, hidden pads": Mitigation(_fixed(field.rescale_sot()), "Ren et al. 2024"),
    "embedding noise": Mitigation(_fixed(field.embedding_noise()), "Somepalli et al. 2023"),
    "random tokens": Mitigation(
        _fixed(field.random_tokens(4)), "Somepalli et al. 2023", ("text encoder",)
    ),
    "random numbers": Mitigation(
        _fixed(field.random_numbers(4)), "Somepalli et al. 2023", ("text encoder",)
    ),
    "optimised embedding": Mitigation(
        _fixed(field.optimise_embedding()), "Wen et al. 2024", ("gradients",), 60
    ),
    "silenced neurons": Mitigation(_silenced, "Hintersdorf et al. 2024", ("ordinary prompts",), 88),
    "static transition": Mitigation(_static, "Jain et al. 2025"),
    "dynamic transition": Mitigation(_fixed(field.dynamic_transition()), "Jain et al. 2025"),
    "opposite guidance": Mitigation(_opposite, "Jain et al. 2025"),
    "attenuated and repelled": Mitigation(
        _fixed(field.attenuate_and_repel()), "Zhao et al. 2026", each_step=1
    ),
    "re-anchored rewording": Mitigation(
        _fixed(field.reanchor()), "Chen et al. 2025", ("text encoder",), 20, each_step=1
    ),
    "usual steps": Mitigation(_usual_steps, "Huang et al. 2026", ("ordinary prompts",)),
    "adjusted noise": Mitigation(_fixed(field.adjust_noise()), "Han et al. 2025", (), 8),
    "optimised noise": Mitigation(
        _fixed(field.optimise_noise(iterations=30)), "Han et al. 2025", ("gradients",), 180
    ),
    "sharpness-aware noise": Mitigation(
        _fixed(field.sharpness_aware_noise()), "Jeon et al. 2025", ("gradients",), 80
    ),
}
