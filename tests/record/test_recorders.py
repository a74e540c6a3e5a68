"""What recorders keep: maps, entropy, chosen layers, and no more than the budget."""

import inspect
import sys
from typing import Any

import numpy as np
import pytest
import torch

import interp as ip
from interp import InterpError, entropy, maps, mass, record, token_mass
from interp.results.axes import DIMS
from tests.runs import TEXTS, latents, recorded


def test_recorders_agree_with_each_other(pipe) -> None:
    data = recorded(pipe, mass, token_mass, maps(layers=0), Peak())
    for prompt in range(2):
        one = data.isel(prompt=prompt)
        for category in ip.CATEGORIES:
            summed = one.token_mass.where(one.position_category == category, 0).sum(
                "position", skipna=False
            )
            np.testing.assert_allclose(summed, one.mass.sel(category=category), atol=1e-6)
    averaged = data.maps.mean(["y", "x"])
    np.testing.assert_allclose(averaged.isel(layer=0), data.mass.isel(layer=0), atol=1e-6)
    assert bool(
        (data.peak >= data.token_mass.max("position")).where(data.peak.notnull(), True).all()
    )


class Peak:
    """A recorder as a user would write one."""

    name = "peak"
    dims = ()
    layers = None

    def __call__(self, seen: Any) -> torch.Tensor:
        return seen.probabilities.amax(dim=(-1, -2))


def test_maps_keep_space(sd1) -> None:
    data = recorded(sd1, maps(by="position", layers="up.1"), mass)
    assert data.maps.dims == (*DIMS[:-1], "position", "y", "x")
    assert (data.sizes["y"], data.sizes["x"]) == (16, 16)
    wide = recorded(sd1, maps(layers=0), texts=TEXTS[0], height=128, width=64)
    assert (wide.sizes["y"], wide.sizes["x"]) == (
        128 // sd1.vae_scale_factor,
        64 // sd1.vae_scale_factor,
    )


def test_resampled_maps_still_sum_to_one(pipe) -> None:
    data = recorded(pipe, maps(size=(5, 7)))
    total = data.maps.sum("category", skipna=False)
    np.testing.assert_allclose(total.where(total.notnull(), 1), 1, atol=1e-5)


def test_maps_of_unlike_layers_need_a_size(sd1) -> None:
    with pytest.raises(InterpError, match=r"maps\(size=16\)"):
        recorded(sd1, maps())
    with pytest.raises(InterpError, match="by 'category' or by 'position'"):
        inspect.unwrap(maps)(by="word")


def test_the_budget_is_kept_and_named(sd1) -> None:
    budget = 300_000
    with pytest.raises(InterpError, match=r"would be .* GiB; the budget is 0.000279 GiB"):
        recorded(sd1, maps(size=16), texts=TEXTS[0], steps=20, log={"budget": budget})
    with pytest.raises(InterpError, match="That is"):
        recorded(sd1, maps(size=64), texts=TEXTS[0], log={"budget": budget})
    assert recorded(sd1, texts=TEXTS[0], steps=20, log={"budget": budget}).sizes["step"] == 20


def test_only_chosen_layers_are_recorded(pipe) -> None:
    whole, part = recorded(pipe), recorded(pipe, log={"layers": "up"})
    assert part.layer.values.tolist() == whole.layer[whole.block == "up"].values.tolist()
    np.testing.assert_array_equal(part.mass, whole.mass.sel(layer=part.layer.values))


def test_small_chunks_change_nothing(pipe, monkeypatch) -> None:
    whole = recorded(pipe, mass, entropy)
    monkeypatch.setattr(sys.modules["interp.record.log"], "CHUNK", 1)
    pieces = recorded(pipe, mass, entropy)
    for name in whole.data_vars:
        np.testing.assert_allclose(pieces[name], whole[name], atol=1e-6)


def test_entropy_is_that_of_each_query(sd1) -> None:
    data = recorded(sd1, entropy, maps(by="position", layers="down.0"), texts=TEXTS[0])
    spread = data.maps.isel(layer=0)
    by_hand = -(spread * np.log(spread)).sum("position").mean(["y", "x"])
    np.testing.assert_allclose(data.entropy.isel(layer=0), by_hand, atol=1e-5)
    assert float(data.entropy.max()) <= np.log(77) + 1e-6


def test_recorders_of_one_variable_and_things_that_record_nothing_are_refused(sd1) -> None:
    with (
        pytest.raises(InterpError, match="Several of them would write the variable maps"),
        record(sd1, maps(layers="up"), maps(layers="mid")),
    ):
        pass
    with pytest.raises(InterpError, match="maps must be called"):
        next(inspect.unwrap(record)(sd1, maps))


def test_unknown_layers_are_refused_before_anything_runs(sd1) -> None:
    with pytest.raises(InterpError, match="selects none of the 7"), record(sd1, layers="up.9"):
        latents(sd1)
    wrong = maps(layers="nowhere")
    with pytest.raises(InterpError, match="selects none of the 7"), record(sd1, mass, wrong):
        latents(sd1)
