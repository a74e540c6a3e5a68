"""Which rows of a UNet batch are unconditional, by its embeddings and by what the pipeline says.

Stock pipelines order a batch as [unconditional..., conditional...], or leave out the first half.
They encode the prompts first, and mostly say whether guidance is on. Neither is believed alone: a
pipeline may not say it or be wrong, and embeddings may fit both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

from interp.denoiser.encodings import Place
from interp.errors import InterpError

PLAIN = "Use a pipeline with plain classifier-free guidance."
SAY = "Say which it is: guided=True for the first half, guided=False for none."


def fitting(
    total: int,
    prompts: int,
    holds: Callable[[int, int], bool],
    other: Callable[[int], bool] = lambda row: True,
) -> set[int]:
    """How many rows at the front may be unconditional: none, half, either or (empty) neither.

    Example:
        >>> fitting(2, 1, holds=lambda row, number: row == 1)     # the prompt is in the second row
        {1}

    Args:
        total: the rows.
        prompts: of how many prompts the conditional rows are, each a number of images in a row.
        holds: whether a row holds the numbered prompt.
        other: whether a row may hold something else than a prompt.
    """
    found = set()
    for uncond in {0, total // 2} if total % 2 == 0 else {0}:
        images, rest = divmod(total - uncond, prompts) if prompts else (0, 0)
        if images and not rest:
            right = all(holds(uncond + n, n // images) for n in range(total - uncond))
            if right and all(other(row) for row in range(uncond)):
                found.add(uncond)
    return found


def heard(places: Sequence[Set[Place]], prompts: int) -> set[int]:
    """The same for rows that were recognised: prompts are what was encoded first, so many."""
    return fitting(
        len(places),
        prompts,
        lambda row, number: (0, number) in places[row],
        lambda row: not places[row] or any(call for call, _ in places[row]),
    )


def apart(places: Sequence[Set[Place]], uncond: int) -> bool:
    """Whether no encoder call gave unconditional rows and conditional ones."""
    calls = [
        {min(there)[0] for there in rows if there} for rows in (places[:uncond], places[uncond:])
    ]
    return calls[0].isdisjoint(calls[1])


def chosen(pipe: Any, says: bool | None, total: int, fits: set[int], rows: str) -> int:
    """How many rows are unconditional, if the pipeline and the embeddings agree.

    Example:
        >>> chosen(pipe, says=None, total=2, fits={1}, rows="'', 'a goat'")
        1

    Args:
        says: what the pipeline says of guidance; None if it says nothing.
        fits: what the embeddings allow; empty if they do not tell.
        rows: what the rows hold, for people.

    Raises:
        InterpError: they contradict each other, or neither tells.
    """
    asked = f"Cannot tell which of the {total} rows of a {type(pipe).__name__}'s UNet batch are "
    asked += f"unconditional: {rows}."
    if says is None:
        if len(fits) == 1:
            return next(iter(fits))
        raise InterpError(
            asked,
            "The pipeline does not say whether guidance is on, nor do the embeddings.",
            PLAIN if total % 2 else SAY,
        )
    uncond = total // 2 if says else 0
    if (says and total % 2) or (fits and uncond not in fits):
        state = "on" if says else "off"
        raise InterpError(
            asked,
            f"The pipeline says that guidance is {state}, and these are not the rows for it.",
            PLAIN if total % 2 else SAY,
        )
    return uncond
