"""NeMo's search for the neurons that matter, given any measure of similarity.

No network here: `similarity` is any function of the silenced neurons, so that the search can be
compared with the authors' on cheap functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

Neurons = Mapping[str, tuple[int, ...]]
"""Indices of neurons by layer. An index that appears twice was selected by both rules."""
Similarity = Callable[[Neurons], float]

THETAS = tuple((5 - 0.25 * np.arange(16)).tolist())
"""5, 4.75, ..., 1.25: the authors' code stops before trying its smallest theta, 1."""


def candidates(
    similarity: Similarity,
    z: xr.DataArray,
    active: xr.DataArray,
    threshold: float,
    thetas: Sequence[float] = THETAS,
    once: bool = False,
) -> tuple[Neurons, float]:
    """Step 1: enough unusual or active neurons, and the similarity left when they are silenced.

    Example:
        >>> chosen, reached = candidates(search.similarity, z, active, 0.428)

    Args:
        similarity: the largest similarity between predictions with and without these neurons.
        z: `(layer, neuron)`, deviations from the usual activation.
        active: `(layer, neuron)`, activations; NaN where a layer has fewer neurons.
        threshold: the search ends once the similarity is at most this.
        thetas: tried in turn, with the 0, 1, 2, ... most active neurons of each layer.
        once: list a neuron selected by both rules only once.
    """
    for k, theta in enumerate(thetas):
        chosen = {}
        for name in map(str, z.layer.values):
            unusual = np.flatnonzero(abs(z.sel(layer=name).values) > theta).tolist()
            activation = active.sel(layer=name).values
            there = np.flatnonzero(np.isfinite(activation))
            most = there[np.argsort(-activation[there], kind="stable")][:k].tolist()
            chosen[name] = tuple(dict.fromkeys(unusual + most) if once else unusual + most)
        reached = similarity(chosen)
        if reached <= threshold:
            break
    return chosen, reached


def refined(similarity: Similarity, chosen: Neurons, threshold: float) -> Neurons:
    """Step 2: restore whole layers and then single neurons, deepest layers first.

    Example:
        >>> kept = refined(search.similarity, chosen, 0.428)

    A layer or neuron stays restored if the similarity remains below the threshold. A neuron listed
    twice is restored one entry at a time, and stays silenced unless both entries can be restored.
    """
    kept = dict(chosen)
    singles = sum(map(len, kept.values()))
    with tqdm(total=len(kept) + singles, unit="neuron", disable=None) as bar:
        for name in reversed(list(kept)):
            if kept[name] and similarity({**kept, name: ()}) < threshold:
                kept[name] = ()
            bar.update()
        for name in reversed(list(kept)):
            for neuron in kept[name]:
                rest = list(kept[name])
                rest.remove(neuron)
                if similarity({**kept, name: tuple(rest)}) < threshold:
                    kept[name] = tuple(rest)
                bar.update()
    return kept
