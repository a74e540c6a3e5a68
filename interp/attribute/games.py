"""Cooperative games: each player's exact contribution, from the worths of all coalitions.

Shapley values and interactions are linear in the worths: each is one matrix applied to the table.
Only for small games: n players have 2^n coalitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import factorial

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from interp.errors import InterpError

MOST_PLAYERS = 12
PLAYER, OTHER, COALITION = "player", "player_2", "coalition"


def coalitions(players: int) -> Bool[np.ndarray, "coalition player"]:
    """All coalitions, the full one first and the empty one last.

    Example:
        >>> coalitions(2)
        array([[ True,  True], [False,  True], [ True, False], [False, False]])

    Raises:
        InterpError: for no players, or too many to run all their coalitions.
    """
    if not 1 <= players <= MOST_PLAYERS:
        raise InterpError(
            f"Exact values of a game of {players} players were asked for.",
            f"They take 2^n coalitions and are available for 1 to {MOST_PLAYERS} players.",
            "Group positions into fewer players, or sample: attribute.tokens(methods='shapley').",
        )
    numbers = np.arange(2**players)
    absent = (numbers[:, None] >> np.arange(players)) & 1
    return absent == 0


def weights(players: int) -> Float[np.ndarray, "player coalition"]:
    """The matrix that turns worths into Shapley values.

    Example:
        >>> phi = weights(4) @ worth.values

    `phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S))` (Shapley 1953).
    """
    inside = coalitions(players)
    size = inside.sum(axis=1)
    chance = np.array(
        [factorial(s) * factorial(players - s - 1) / factorial(players) for s in range(players)]
    )
    # For player i, a coalition with i is the S + i of the formula, and one without i is the S.
    gained = chance[np.maximum(size - 1, 0)]
    lost = -chance[np.minimum(size, players - 1)]
    return np.where(inside, gained[:, None], lost[:, None]).T


def interaction_weights(players: int) -> Float[np.ndarray, "player player coalition"]:
    """The matrix that turns worths into Shapley interaction indices; NaN for a player with itself.

    `I_ij = sum over S without i and j of |S|! (n - |S| - 2)! / (n - 1)! (v(S + i + j) - v(S + i)
    - v(S + j) + v(S))` (Grabisch & Roubens 1999): how much two players gain by acting together.
    """
    inside = coalitions(players)
    matrix = np.full((players, players, len(inside)), np.nan)
    for i in range(players):
        for j in range(players):
            if i != j:
                rest = inside.sum(axis=1) - inside[:, i] - inside[:, j]
                chance = [
                    factorial(s) * factorial(players - s - 2) / factorial(players - 1) for s in rest
                ]
                sign = np.where(inside[:, i] == inside[:, j], 1, -1)
                matrix[i, j] = sign * np.array(chance)
    return matrix


def solve(worth: xr.DataArray, players: Sequence[str]) -> xr.Dataset:
    """Shapley values and pairwise interactions of a table of worths.

    Example:
        >>> solve(worth, ("sot", "prompt", "eot", "pad")).phi

    Args:
        worth: `(coalition, ...)` in the order of `coalitions`.
        players: their names.

    Returns:
        `phi(player, ...)`, `interaction(player, player_2, ...)`, `worth(coalition, ...)` labelled
        by names such as "prompt+pad", and `member(coalition, player)`.
    """
    inside = coalitions(len(players))
    exact = worth.astype(np.float64)
    values = xr.DataArray(weights(len(players)), dims=(PLAYER, COALITION))
    pairs = xr.DataArray(interaction_weights(len(players)), dims=(PLAYER, OTHER, COALITION))
    bare = exact.drop_vars(COALITION, errors="ignore")
    data = xr.Dataset(
        {
            "phi": xr.dot(values, bare, dim=COALITION),
            "interaction": xr.dot(pairs, bare, dim=COALITION),
            "worth": bare,
        }
    )
    return data.assign_coords(
        {
            PLAYER: list(players),
            OTHER: list(players),
            COALITION: names(players),
            "member": ((COALITION, PLAYER), inside),
        }
    )


def names(players: Sequence[str]) -> list[str]:
    """The names of coalitions: "all", "none", or their members.

    Example:
        >>> names(("eot", "pad"))
        ['all', 'pad', 'eot', 'none']
    """
    found = []
    for row in coalitions(len(players)):
        members = [name for name, present in zip(players, row, strict=True) if present]
        found.append("+".join(members) if members else "none")
    return ["all", *found[1:]]
