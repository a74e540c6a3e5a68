"""Whole numbers as users give them: one, several, or a range of seeds, steps or heads."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from interp.errors import InterpError

Seeds = int | Iterable[int]
"""What every `seeds=` takes: `4` and `range(4)` are the first four, `[3, 7]` are those two."""


def chosen_seeds(given: Any) -> tuple[int, ...]:
    """The seeds that `seeds=` means, in their order.

    Example:
        >>> chosen_seeds(4)
        (0, 1, 2, 3)

    Raises:
        InterpError: for what is no whole number, or no seed at all.
    """
    seeds = whole(given, "seeds")
    if not isinstance(given, Iterable):
        seeds = tuple(range(*seeds))
    if not seeds or isinstance(given, bool):
        raise InterpError(
            f"seeds={given!r} was asked for.",
            "There is at least one seed.",
            "Say seeds=4 for the first four, or name them: seeds=[3, 7].",
        )
    return seeds


def whole(given: Any, name: str) -> tuple[int, ...]:
    """One or several whole numbers, in their order; numpy's too, which JSON does not know.

    Example:
        >>> whole(np.arange(3), "steps")
        (0, 1, 2)

    Raises:
        InterpError: for anything else.
    """
    try:
        several = given if isinstance(given, Iterable) else (given,)
        return tuple(operator.index(number) for number in several)
    except TypeError as error:
        raise InterpError(
            f"{name}={given!r} was asked for.",
            f"{name} are whole numbers: one, several, or a range.",
            f"Say {name}=4, {name}=[3, 7] or {name}=range(4).",
        ) from error
