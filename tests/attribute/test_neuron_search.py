"""The search for neurons against the authors' own, on similarities that cost nothing."""

import pytest
import torch
import xarray as xr

from interp.attribute.neuron_search import candidates, refined


def official(active, z, similarity, threshold):
    """The authors' search, step by step, on lists of layers."""
    theta, k, limit, reached = 5.0, 0, threshold, 1.0
    while reached > threshold:
        chosen = []
        for layer in range(len(active)):
            listed = (z[layer].abs() > theta).nonzero().flatten().tolist()
            chosen.append(listed + active[layer].topk(min(k, len(active[layer]))).indices.tolist())
        reached = similarity(chosen)
        if reached > threshold:
            theta, k = theta - 0.25, k + 1
        if theta == 1:
            limit = reached
            break
    tried = theta, k
    for layer in reversed(range(len(chosen))):
        if chosen[layer] and similarity([*chosen[:layer], [], *chosen[layer + 1 :]]) < limit:
            chosen[layer] = []
    for layer in reversed(range(len(chosen))):
        for neuron in list(chosen[layer]):
            rest = list(chosen[layer])
            rest.remove(neuron)
            if similarity([*chosen[:layer], rest, *chosen[layer + 1 :]]) < limit:
                chosen[layer] = rest
    return chosen, reached, tried


@pytest.mark.parametrize("threshold", [-1.0, 0.02, 0.2, 0.4])
@pytest.mark.parametrize("seed", range(4))
def test_the_search_is_the_authors_own(seed: int, threshold: float) -> None:
    """On a similarity in which neurons of different layers matter together; -1 is never reached."""
    generator = torch.Generator().manual_seed(seed)
    layers, neurons = ["down.0.0", "down.1.0", "mid.0"], 24
    active = torch.rand(3, neurons, generator=generator)
    z = 2.2 * torch.randn(3, neurons, generator=generator)
    worth = torch.rand(3, neurons, generator=generator) ** 3

    def similarity(chosen) -> float:
        silenced = torch.zeros(3, neurons)
        for layer, numbers in enumerate(chosen):
            silenced[layer, list(numbers)] = 1
        layer_wise = (silenced * worth).sum(1)
        return float(torch.exp(-layer_wise.sum() - layer_wise.prod()))

    dims, coords = ("layer", "neuron"), {"layer": layers}
    mine = {"active": xr.DataArray(active, coords, dims), "z": xr.DataArray(z, coords, dims)}
    asked = lambda chosen: similarity(chosen.values())  # noqa: E731
    chosen, reached = candidates(asked, threshold=threshold, **mine)
    kept = refined(asked, chosen, max(threshold, reached))
    theirs, their_reached, tried = official(active, z, similarity, threshold)
    assert reached == their_reached
    assert [list(numbers) for numbers in kept.values()] == theirs
    if threshold < 0:
        assert tried == (1.0, 16)  # arrived at and never tried
        listed = [(abs(row) > 1.25).sum() + 15 for row in z]
        assert [len(numbers) for numbers in chosen.values()] == listed


def test_a_neuron_selected_by_both_rules_can_be_taken_for_one() -> None:
    z = xr.DataArray([[9.0, 0, 0, 0]], {"layer": ["mid.0"]}, ("layer", "neuron"))
    active = xr.DataArray([[9.0, 8, 7, 6]], {"layer": ["mid.0"]}, ("layer", "neuron"))
    asked = lambda chosen: 0.5  # noqa: E731
    for once, expected in ((False, (0, 0, 1)), (True, (0, 1))):
        chosen, _ = candidates(asked, z, active, 0.1, thetas=(5, 4, 3), once=once)
        assert chosen == {"mid.0": expected}
