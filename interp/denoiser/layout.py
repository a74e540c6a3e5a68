"""Which rows of a UNet batch are unconditional, by its embeddings and the pipeline's guidance flag.

Stock pipelines order a batch as [unconditional..., conditional...], or leave out the first half.
They encode the prompts first, and most say whether guidance is on. Neither is trusted alone: a
pipeline may have no flag or a wrong one, and embeddings may fit both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

from interp.denoiser.encodings import Place
from interp.errors import InterpError

PLAIN = "Use a pipeline with plain classifier-free guidance."
SAY = "Pass guided=True if the first half is, guided=False if no row is."


def fitting(
    total: int,
    prompts: int,
    holds: Callable[[int, int], bool],
    other: Callable[[int], bool] = lambda row: True,
) -> set[int]:
    """How many rows at the front may be unconditional: none, half, either or (if empty) neither.

    Example:
        >>> fitting(2, 1, holds=lambda row, number: row == 1)     # the prompt is in the second row
        {1}

    Args:
        total: the number of rows.
        prompts: the number of prompts in the conditional rows, each with consecutive images.
        holds: whether a row holds the prompt with this number.
        other: whether a row may hold something other than a prompt.
    """
    found = set()
    for uncond in {0, total // 2} if total % 2 == 0 else {0}:
        images, rest = divmod(total - uncond, prompts) if prompts else (0, 0)
        if images and not rest:
            right = all(holds(uncond + n, n // images) for n in range(total - uncond))
            if right and all(other(row) for row in range(uncond)):
                found.add(uncond)
    return found


def recognised(places: Sequence[Set[Place]], prompts: int) -> set[int]:
    """The same for recognised rows, given how many prompts the first encoder call encoded."""
    return fitting(
        len(places),
        prompts,
        lambda row, number: (0, number) in places[row],
        lambda row: not places[row] or any(call for call, _ in places[row]),
    )


def apart(places: Sequence[Set[Place]], uncond: int) -> bool:
    """Whether no encoder call produced both unconditional and conditional rows."""
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
        says: whether guidance is on according to the pipeline; None if it has no flag.
        fits: what the embeddings allow; empty if they do not tell.
        rows: what the rows hold, for messages.

    Raises:
        InterpError: the two contradict each other, or neither tells.
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
            f"The pipeline says that guidance is {state}, but the rows do not fit that.",
            PLAIN if total % 2 else SAY,
        )
    return uncond
