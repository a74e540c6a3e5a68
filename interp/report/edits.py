"""Which edits a report tries: every way to remove categories, and the mitigations.

Removals are chosen so that nothing has to be generated twice: together they are all coalitions of
words, end token and padding, so the same images that are looked at give exact Shapley values.
"""

from collections.abc import Mapping

import interp.paper as paper
from interp import mitigations as field
from interp.patch import Patch, zero
from interp.session import Rewrite

PLAYERS = ("prompt", "eot", "pad")
"""What may drive memorization. The start token is the same for every prompt, so it never does."""

#: What is removed under each edit; three of the paper's letters, and what they leave out.
REMOVED: Mapping[str, tuple[str, ...]] = {
    "c": ("prompt",),
    "f": ("eot",),
    "h": ("pad",),
    "zero prompt and eot": ("prompt", "eot"),
    "zero prompt and pad": ("prompt", "pad"),
    "a": ("eot", "pad"),
    "zero prompt, eot and pad": ("prompt", "eot", "pad"),
}
CHEAP = ("repad '!' and zero eot", "zero pad 70 %", "Ren et al.", "random token addition (RTA)")
"""Mitigations that add no cost to an image, one of each sort."""

NOISE = "embedding noise"
"""The field's mitigation that the paper does not compare."""
NONE, REMOVAL, INTERVENTION, MITIGATION = "none", "removal", "intervention", "mitigation"


def edits(full: bool = False) -> dict[str, Patch | Rewrite]:
    """Return the edits of a report by name.

    Example:
        >>> list(edits())[:3]
        ['c', 'f', 'h']

    Args:
        full: also the paper's other interventions and mitigations and the field's other one, as
            ablations have them, in about twice the time.
    """
    letters, compared = paper.interventions(), paper.mitigations()
    found: dict[str, Patch | Rewrite] = dict(letters) if full else {}
    for name, categories in REMOVED.items():
        found.setdefault(name, letters.get(name, zero(categories)))
    if not full:
        return found | {name: compared[name] for name in CHEAP}
    return found | compared | {NOISE: field.embedding_noise()}


def role(name: str) -> str:
    """What an edit is for: "none", "removal", "intervention" or "mitigation".

    Example:
        >>> role("h")
        'removal'
    """
    if name == NONE:
        return NONE
    if name in REMOVED:
        return REMOVAL
    return INTERVENTION if name in paper.interventions() else MITIGATION


def without(missing: tuple[str, ...]) -> str:
    """The edit under which exactly these categories are missing.

    Example:
        >>> without(("pad",))
        'h'
    """
    if not missing:
        return NONE
    return next(name for name, removed in REMOVED.items() if set(removed) == set(missing))
