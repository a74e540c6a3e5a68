"""Which images of a training set are the same, or nearly: what is repeated is memorized first.

The same are those of the same pixels, near copies those that the descriptor says. A perceptual hash
between the two would save nothing: every image has to be described anyway, because generated ones
are compared with all, and an image that lies there many times is described once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Integer
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from tqdm.auto import tqdm

from interp.audit.pairs import Pair
from interp.metrics import SSCD
from interp.sweep.cluster import each

AT_ONCE = 2048
"""Images that are compared with all others at a time."""
DESCRIBED = 32
"""Images that are described at a time, by one worker."""


def identical(pairs: Sequence[Pair]) -> Integer[np.ndarray, " image"]:
    """Return a group for every image; images of the same pixels share it, whatever their files.

    Example:
        >>> np.bincount(identical(read_pairs("my_training_set")))
        array([40, 1, 1, 25])
    """
    digests = []
    for pair in tqdm(pairs, "images", disable=None):
        image = pair.image()
        digests.append(hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest())
    return np.unique(digests, return_inverse=True)[1]


def described(
    pairs: Sequence[Pair],
    same: Integer[np.ndarray, " image"],
    copy: SSCD,
    client: Any = None,
) -> Float[Tensor, "image d"]:
    """Return the descriptor of every image, of which those that are the same are described once.

    Example:
        >>> described(pairs, identical(pairs), sscd).shape
        torch.Size([1204, 512])

    Args:
        same: from `identical`.
        copy: the copy descriptor.
        client: a Dask client whose workers share the images.
    """
    _, first, place = np.unique(same, return_index=True, return_inverse=True)
    chunks = np.array_split(first, -(-len(first) // DESCRIBED))
    # Read when they are sent, as workers need not see the folder.
    tasks = ((n, [Pair("", pairs[i].packed()) for i in chunk]) for n, chunk in enumerate(chunks))
    made = each(client, None, partial(_descriptors, copy), tasks)
    found = dict(tqdm(made, "descriptors", total=len(chunks), disable=None))
    distinct = np.concatenate([found[n].descriptor.values for n in range(len(chunks))])
    return torch.from_numpy(distinct[place])


def _descriptors(copy: SSCD, session: None, pairs: Sequence[Pair]) -> xr.Dataset:
    each_of_its_size = [copy.descriptors(pair.image()) for pair in pairs]
    return xr.Dataset({"descriptor": (("image", "d"), torch.cat(each_of_its_size).numpy())})


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
