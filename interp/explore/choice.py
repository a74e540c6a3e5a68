"""What is chosen in the explorer: a prompt, a seed, and one patch with its place.

A choice comes from a page as JSON, so it is checked here. What it is in Python, `call` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from interp.errors import InterpError
from interp.patch.where import Side

NONE = "none"
OPERATIONS = ("zero", "mask", "swap", "copy", "repad", "scale", "noise")
"""The verbs that a page offers."""
DEFAULTS = {"zero": 1, "scale": 1.25, "noise": 0.5}
"""The number that a verb takes, as a page begins with it."""
LONGEST = 10_000
"""Characters of a prompt; the text encoder reads 77 tokens."""


@dataclass(frozen=True)
class Choice:
    """One state of the explorer.

    Example:
        >>> Choice.read({"text": "a photo of a goat", "operation": "zero", "categories": ["pad"]})

    Attributes:
        text: the prompt.
        seed: of its noise.
        operation: the verb; "none" for no patch.
        categories: whose embeddings are edited.
        heads: by layer, the heads where it applies; None is everywhere.
        steps: the first step, and the first that is left alone again; None is all.
        side: keys, values or both.
        amount: the verb's number: a fraction, a factor, a standard deviation.
        donor: the prompt whose embeddings `swap` puts there.
        source: the category whose embedding `copy` puts there.
        token: the pad token of `repad`.
    """

    text: str = ""
    seed: int = 0
    operation: str = NONE
    categories: tuple[str, ...] = ("pad",)
    heads: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    steps: tuple[int, int] | None = None
    side: Side = "kv"
    amount: float = 1.0
    donor: str = ""
    source: str = "eot"
    token: str = "!"

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Choice:
        """The choice that a page sent; what it left out is as usual.

        Raises:
            InterpError: for a field that does not exist, or holds something else.
        """
        for name, value in given.items():
            if name not in _FITS or not _FITS[name](value):
                raise InterpError(
                    f"The explorer was sent {name!r} = {str(value)[:80]!r}.",
                    f"A choice has {', '.join(_FITS)}, each of its own kind.",
                    "Load the page again.",
                )
        return cls(**{name: _frozen(value) for name, value in given.items()})

    def within(self, steps: int, of: int) -> Choice:
        """The same choice in a run of fewer steps, at the steps that correspond.

        Example:
            >>> Choice(steps=(10, 20)).within(5, of=25).steps
            (2, 4)
        """
        if self.steps is None:
            return self
        first, last = self.steps
        start = min(first * steps // of, steps - 1)
        return replace(self, steps=(start, max(start + 1, -(-last * steps // of))))

    def everywhere(self) -> Choice:
        """The same choice at all layers, heads and steps."""
        return replace(self, heads=None, steps=None)


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return tuple((name, tuple(numbers)) for name, numbers in value.items())
    return tuple(value) if isinstance(value, list) else value


def _text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _span(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) == 2 and all(map(_whole, value))
    )


def _by_layer(value: Any) -> bool:
    return value is None or (
        isinstance(value, dict)
        and all(isinstance(heads, list) and all(map(_whole, heads)) for heads in value.values())
    )


_FITS: dict[str, Any] = {
    "text": _text,
    "seed": _whole,
    "operation": _text,
    "categories": lambda value: isinstance(value, list) and all(map(_text, value)),
    "heads": _by_layer,
    "steps": _span,
    "side": lambda value: value in get_args(Side),
    "amount": lambda value: type(value) in (int, float),
    "donor": _text,
    "source": _text,
    "token": _text,
}
