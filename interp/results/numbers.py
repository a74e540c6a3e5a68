"""Whole numbers as users give them: one, several, or a range of seeds, steps or heads."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from interp.errors import InterpError

Seeds = int | Iterable[int]
"""What every `seeds=` accepts: `4` and `range(4)` are the first four, `[3, 7]` are those two."""


def chosen_seeds(given: Any) -> tuple[int, ...]:
    """The seeds that `seeds=` stands for, in order.

    Example:
        >>> chosen_seeds(4)
        (0, 1, 2, 3)

    Raises:
        InterpError: something is not a whole number, or there are no seeds.
    """
    seeds = whole(given, "seeds")
    if not isinstance(given, Iterable):
        seeds = tuple(range(*seeds))
    if not seeds or isinstance(given, bool):
        raise InterpError(
            f"seeds={given!r} was asked for.",
            "There must be at least one seed.",
            "Use seeds=4 for the first four, or name them: seeds=[3, 7].",
        )
    return seeds


def whole(given: Any, name: str) -> tuple[int, ...]:
    """One or several whole numbers, in order, as Python integers (JSON does not know numpy's).

    Example:
        >>> whole(np.arange(3), "steps")
        (0, 1, 2)

    Raises:
        InterpError: something is not a whole number.
    """
    try:
        several = given if isinstance(given, Iterable) else (given,)
        return tuple(operator.index(number) for number in several)
    except TypeError as error:
        raise InterpError(
            f"{name}={given!r} was asked for.",
            f"{name} are whole numbers: one, several, or a range.",
            f"Use {name}=4, {name}=[3, 7] or {name}=range(4).",
        ) from error
