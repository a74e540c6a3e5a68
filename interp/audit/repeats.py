"""Which images of a training set are the same, or nearly: what is repeated is memorized first."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

AT_ONCE = 2048
"""Images that are compared with all others at a time."""


def repeats(
    descriptors: Float[Tensor, "image d"], threshold: float
) -> Integer[np.ndarray, " image"]:
    """Return a group for every image; images that are copies of one another share it.

    Example:
        >>> groups = repeats(sscd.descriptors(images), 0.75)
        >>> np.bincount(groups)          # how often each distinct picture is in the set
        array([...])

    Args:
        descriptors: unit vectors.
        threshold: similarity from which on two images are copies. Copies of copies are in one
            group.
    """
    first, second = [], []
    for start in range(0, len(descriptors), AT_ONCE):
        alike = descriptors[start : start + AT_ONCE] @ descriptors.T >= threshold
        row, column = alike.nonzero(as_tuple=True)
        first.append(start + row.numpy())
        second.append(column.numpy())
    rows, columns = np.concatenate(first), np.concatenate(second)
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(descriptors),) * 2)
    return connected_components(graph, directed=False)[1]
