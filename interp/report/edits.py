"""The edits that a report tries: every way to remove categories, and the mitigations.

The removals cover all coalitions of words, end token and padding, so the images shown also give
exact Shapley values, and nothing is generated twice.
"""

from collections.abc import Mapping

import interp.paper as paper
from interp import mitigations as field
from interp.patch import Patch, zero
from interp.session import Rewrite

PLAYERS = ("prompt", "eot", "pad")
"""What may drive memorization. The start token, equal for every prompt, can not."""

#: What each edit removes: some of the paper's letters, and the combinations it leaves out.
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
"""Mitigations that do not make an image more expensive, one of each sort."""

NOISE = "embedding noise"
"""A mitigation of the field that the paper does not compare."""
NONE, REMOVAL, INTERVENTION, MITIGATION = "none", "removal", "intervention", "mitigation"


def edits(full: bool = False) -> dict[str, Patch | Rewrite]:
    """Return the edits of a report by name.

    Example:
        >>> list(edits())[:3]
        ['c', 'f', 'h']

    Args:
        full: also the paper's other interventions and mitigations, and the field's other one, as in
            ablations; takes about twice as long.
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
    """The edit that removes exactly these categories.

    Example:
        >>> without(("pad",))
        'h'
    """
    if not missing:
        return NONE
    return next(name for name, removed in REMOVED.items() if set(removed) == set(missing))
