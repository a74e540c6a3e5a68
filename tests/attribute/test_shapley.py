"""Shapley values against their axioms, against captum, and against enumeration of orders."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from captum.attr import ShapleyValues

import interp as ip
from interp import InterpError, Where, attribute, results
from interp.attribute.games import coalitions, solve
from interp.attribute.players import absent, words
from interp.attribute.values import generations, measure

A, B = "antique church poster in Berlin", "a photo of a goat"
PLAYERS = ("sot", "prompt", "eot", "pad")


def game(worth, players=PLAYERS) -> xr.Dataset:
    return solve(xr.DataArray(np.asarray(worth, dtype=float), dims="coalition"), players)


@pytest.fixture
def sd(sd1):
    return ip.Session(sd1, steps=2, guidance=3.0)


def test_shapley_values_are_the_mean_over_all_orders() -> None:
    worth = np.random.default_rng(0).normal(size=16)
    table = {tuple(row): value for row, value in zip(coalitions(4).tolist(), worth, strict=True)}
    gains = np.zeros((24, 4))
    for number, order in enumerate(itertools.permutations(range(4))):
        present = [False] * 4
        for player in order:
            before = table[tuple(present)]
            present[player] = True
            gains[number, player] = table[tuple(present)] - before
    np.testing.assert_allclose(game(worth).phi, gains.mean(0), atol=1e-12)


def test_interactions_of_a_game_made_of_products() -> None:
    """v = 2 x0 + 3 x0 x1 - x1 x2 x3: a product is shared by its members, whole pairs interact."""
    x = coalitions(4).astype(float).T
    data = game(2 * x[0] + 3 * x[0] * x[1] - x[1] * x[2] * x[3])
    np.testing.assert_allclose(data.phi, [2 + 3 / 2, 3 / 2 - 1 / 3, -1 / 3, -1 / 3], atol=1e-12)
    pairs = data.interaction.values
    # Of a product of three, a pair has half (Grabisch & Roubens 1999).
    expected = {(0, 1): 3, (1, 2): -1 / 2, (1, 3): -1 / 2, (2, 3): -1 / 2, (0, 2): 0, (0, 3): 0}
    for (i, j), value in expected.items():
        np.testing.assert_allclose([pairs[i, j], pairs[j, i]], value, atol=1e-12)
    assert np.isnan(np.diag(pairs)).all()


def test_dummy_and_symmetry() -> None:
    inside = coalitions(4)
    worth = np.random.default_rng(1).normal(size=5)[inside[:, 1:].sum(1)]
    data = game(worth)
    np.testing.assert_allclose(data.phi[0], 0, atol=1e-12)
    np.testing.assert_allclose(data.phi[1:], (worth[0] - worth[-1]) / 3, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("baseline", ["donor", "repad"])
def test_shapley_equals_captums_on_the_same_game(sd, baseline: str) -> None:
    a, b = sd.encode([A, B])
    given = {"donor": b, "mean": [a, b]}.get(baseline, baseline)
    data = attribute.shapley(sd, a, baseline=given, seeds=[3])
    total = data.worth.sel(coalition="all") - data.worth.sel(coalition="none")
    np.testing.assert_allclose(data.phi.sum("player"), total, atol=1e-5)
    everything = absent(given, [a], ip.CATEGORIES).embeds(a, sd.pipe)

    def worth(embeds: torch.Tensor) -> torch.Tensor:
        """Embeddings mixed by captum, run one by one as prompts of their own."""
        rows = [sd.trace(replace(a, embeds=row), [3], half=False) for row in embeds]
        norms = [
            np.sqrt(((t.eps_c - t.eps_u) ** 2).sum(("channel", "latent_y", "latent_x")))
            for t in rows
        ]
        return torch.tensor([norm.mean().item() for norm in norms], dtype=torch.float64)

    found = ShapleyValues(worth).attribute(
        a.embeds[None], everything[None], feature_mask=a.category[None, :, None]
    )
    captums = [float(found[0, a.at(name)[0], 0]) for name in PLAYERS]
    np.testing.assert_allclose(data.phi[:, 0, 0], captums, atol=1e-5)
    if baseline == "donor":
        assert abs(data.phi.sel(player="sot").item()) < 1e-6
    if baseline == "repad":
        np.testing.assert_allclose(data.phi[:3], 0, atol=1e-12)
        assert abs(data.phi.sel(player="pad").item()) > 1e-4


def test_positions_places_and_patches_are_players(sd) -> None:
    a, b = sd.encode([A, B])
    whole = attribute.shapley(sd, a, baseline=b, seeds=[0])
    split = {
        "sot": "sot",
        "prompt": [1, 2, 3, 4, 5],
        "eot": slice(6, 7),
        "pad": ip.swap("pad", b, "nearest"),
    }
    again = attribute.shapley(sd, a, baseline=b, seeds=[0], players=split)
    xr.testing.assert_allclose(whole.worth, again.worth, atol=1e-5)
    blocks = {block: Where(layers=block) for block in ("down", "mid", "up")}
    places = attribute.shapley(sd, a, baseline="zero", seeds=[0], players=blocks)
    nothing = attribute.shapley(sd, a, baseline="zero", seeds=[0])
    for name in ("all", "none"):
        np.testing.assert_allclose(
            places.worth.sel(coalition=name), nothing.worth.sel(coalition=name), atol=1e-5
        )


def test_words_are_players(sd) -> None:
    a = sd.encode("a goat, a unicornish goat")
    found = words(a, sd.pipe.tokenizer)
    assert list(found) == ["a", "goat", ",", "a (2)", "unicornish", "goat (2)"]
    assert found["unicornish"] == (5, 6, 7)
    assert [place for places in found.values() for place in places] == a.at("prompt").tolist()
    two = sd.encode("a goat")
    data = attribute.shapley(sd, two, players="words", seeds=[0])
    assert list(data.player.values) == ["a", "goat"]
    prompt_gone = sd.trace(two, patch=ip.zero("prompt"), half=False)
    expected = attribute.guidance()(prompt_gone.expand_dims("patch"))
    np.testing.assert_allclose(data.worth.sel(coalition="none").item(), expected.item(), atol=1e-5)


def test_values_of_images_and_intervals(sd) -> None:
    unedited = attribute.similarity(ip.metrics.pixel_l2)
    data = attribute.shapley(sd, [A, B], value=unedited, seeds=[0, 1])
    assert float(abs(data.worth.sel(coalition="all")).max()) == 0
    images = [
        np.asarray(image) for image in sd.images(A, [0, 1], {"all": None, "x": ip.zero("pad")})
    ]
    by_hand = ip.metrics.pixel_l2(np.stack(images[2:]), np.stack(images[:2]))
    np.testing.assert_allclose(data.worth.sel(coalition="sot+prompt+eot")[0], by_hand, atol=2e-3)
    reference = attribute.similarity(ip.metrics.pixel_l2, [images[0], images[1]])
    assert reference.name == "pixel_l2 to reference"
    low, high = data.phi_interval.transpose("bound", "player").values
    mean = data.phi.mean(["prompt", "seed"]).values
    assert (low <= mean).all()
    assert (mean <= high).all()
    assert (high > low).any()
    facts = results.provenance(data)
    assert (facts["value"], facts["baseline"]) == ("pixel_l2 to unedited", "zero")


def test_every_prompt_has_its_own_reference(sd) -> None:
    images = sd.images([A, B], seeds=[9])
    each = attribute.similarity(ip.metrics.pixel_l2, images)
    both = attribute.shapley(sd, [A, B], value=each, players={"p": "prompt"})
    for row, (text, image) in enumerate(zip((A, B), images, strict=True)):
        own = attribute.similarity(ip.metrics.pixel_l2, image)
        alone = attribute.shapley(sd, text, value=own, players={"p": "prompt"})
        np.testing.assert_allclose(both.worth.isel(prompt=row), alone.worth[:, 0], rtol=1e-4)
        traced = [
            attribute.causal_trace(
                sd, texts, ip.zero("pad"), layers=[0], steps=[0], value=value, trajectory="own"
            ).clean.values[place, 0]
            for texts, value, place in (([A, B], each, row), (text, own, 0))
        ]
        assert traced[0] == pytest.approx(traced[1], rel=1e-4)


def test_any_function_of_the_dataset_is_a_value(sd) -> None:
    def brightness(data: xr.Dataset) -> xr.DataArray:
        return data.image.mean(["pixel_y", "pixel_x", "rgb"])

    data = attribute.shapley(sd, A, value=brightness, players={"all pads": "pad"}, seeds=[0])
    expected = sd.run(A, patch={"none": None, "x": ip.zero("pad")}).image.mean(
        ("pixel_y", "pixel_x", "rgb")
    )
    np.testing.assert_allclose(data.worth.squeeze(), expected.squeeze(), atol=0.5)
    with pytest.raises(InterpError, match="The function gave 1 numbers"):
        attribute.shapley(sd, A, value=lambda data: data.image.mean(), seeds=[0])


def test_groups_of_generations_change_nothing(sd, monkeypatch) -> None:
    runs = {"none": None, "a": ip.zero("pad"), "b": ip.zero("eot"), "again": ip.zero("pad")}
    value = attribute.similarity(ip.metrics.pixel_l2)
    whole = measure(sd, sd.encode(A), 0, runs, value)
    assert generations(runs) == 3
    monkeypatch.setattr("interp.attribute.values.GROUP", 1)
    np.testing.assert_allclose(measure(sd, sd.encode(A), 0, runs, value), whole, atol=1e-3)
    assert generations(runs) == 4
    assert generations({"none": None}) == 1


def test_a_bootstrap_draws_prompts_first() -> None:
    """Prompts differ, seeds do not: the interval is that of two prompts, however many seeds."""
    values = xr.DataArray(np.repeat([[0.0], [1.0]], 50, axis=1), dims=("prompt", "seed"))
    assert attribute.bootstrap(values).values.tolist() == [0, 1]
    alone = attribute.bootstrap(values.isel(prompt=[0], seed=[0]))
    assert np.isnan(alone).all()


def test_what_can_not_be_played_is_refused(sd) -> None:
    with pytest.raises(InterpError, match="at least two prompts"):
        attribute.shapley(sd, A, baseline="mean")
    with pytest.raises(InterpError, match="Assign every position to one player"):
        attribute.shapley(sd, A, players={"pads": "pad", "late": range(70, 77)})
    with pytest.raises(InterpError, match="a game of 13 players"):
        attribute.shapley(sd, A, players={str(i): [i] for i in range(13)})
    with pytest.raises(InterpError, match="2 prompts"):
        attribute.shapley(sd, [A, B], players="words")
    with pytest.raises(InterpError, match="A run has 2 steps"):
        attribute.shapley(sd, A, value=attribute.guidance(steps=7))
