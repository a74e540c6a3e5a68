"""Every mitigation as a row of one table: how it is made, and what it needs.

For comparing mitigations. A new one is one file, one line here, and one test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from interp import mitigations as field
from interp.patch import Patch, swap
from interp.session import Rewrite, Session

Need = Literal["gradients", "text encoder"]


@dataclass(frozen=True)
class Mitigation:
    """A mitigation beside others.

    Attributes:
        make: makes it for a session, with the authors' settings.
        source: who published it.
        needs: what it takes beside a stock pipeline.
        rows: UNet rows an image, beside those of the run, counted with all iterations.
    """

    make: Callable[[Session], Patch | Rewrite]
    source: str
    needs: tuple[Need, ...] = ()
    rows: int = 0


def _fixed(patch: Patch | Rewrite) -> Callable[[Session], Patch | Rewrite]:
    return lambda session: patch


def _clean_pads(session: Session) -> Patch:
    return swap("pad", donor=session.encode(""), align="nearest")


#: All mitigations with the authors' settings, by name.
MITIGATIONS: Mapping[str, Mitigation] = {
    "repad '!' and zero eot": Mitigation(
        _fixed(field.repad_zero_eot()), "Kim & No 2026", ("text encoder",)
    ),
    "repad '!'": Mitigation(_fixed(field.repad()), "Kim & No 2026", ("text encoder",)),
    "zero pad 70 %": Mitigation(_fixed(field.zero_pads(0.7)), "Kim & No 2026"),
    "clean pads": Mitigation(_clean_pads, "Toker et al. 2025"),
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
    "static transition": Mitigation(_fixed(field.static_transition()), "Jain et al. 2025"),
    "dynamic transition": Mitigation(_fixed(field.dynamic_transition()), "Jain et al. 2025"),
    "opposite guidance": Mitigation(_fixed(field.opposite_guidance()), "Jain et al. 2025"),
    "adjusted noise": Mitigation(_fixed(field.adjust_noise()), "Han et al. 2025", (), 8),
    "optimised noise": Mitigation(
        _fixed(field.optimise_noise(iterations=50)), "Han et al. 2025", ("gradients",), 300
    ),
    "sharpness-aware noise": Mitigation(
        _fixed(field.sharpness_aware_noise()), "Jeon et al. 2025", ("gradients",), 80
    ),
}
