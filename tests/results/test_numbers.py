"""Every way to say seeds, and what is none."""

from typing import Any

import numpy as np
import pytest
import torch

from interp import InterpError
from interp.results.numbers import chosen_seeds, whole


@pytest.mark.parametrize(
    "given", [3, range(3), [0, 1, 2], (0, 1, 2), np.int64(3), np.arange(3), torch.arange(3)]
)
def test_three_seeds(given: Any) -> None:
    seeds = chosen_seeds(given)
    assert seeds == (0, 1, 2)
    assert {type(seed) for seed in seeds} == {int}


def test_numbers_of_numpy_are_whole_numbers() -> None:
    numbers = whole(np.array([2, 0, 2]), "steps")
    assert numbers == (2, 0, 2)
    assert {type(number) for number in (*numbers, *whole(np.int64(3), "heads"))} == {int}


def test_seeds_keep_their_order() -> None:
    assert chosen_seeds([7, 3]) == (7, 3)
    assert chosen_seeds(iter([7, 3])) == (7, 3)


@pytest.mark.parametrize("given", [0, -1, True, [], range(0)])
def test_no_seed_is_an_error(given: Any) -> None:
    with pytest.raises(InterpError, match="at least one seed"):
        chosen_seeds(given)


@pytest.mark.parametrize("given", [1.5, "4", None, [0.5], slice(3), torch.tensor(1.5)])
def test_what_is_no_number_is_an_error(given: Any) -> None:
    with pytest.raises(InterpError, match="seeds=.*whole numbers"):
        chosen_seeds(given)
