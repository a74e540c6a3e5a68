"""What a report is made from is what runs of the same prompts give."""

import numpy as np
import pytest

import interp as ip
from interp import detect, report
from interp.attribute.values import similarity
from interp.report.cases import Case
from interp.report.edits import PLAYERS
from interp.report.where import changes


@pytest.fixture(scope="module")
def session():
    from tests.pipelines import pipeline

    return ip.Session(pipeline("sd1"), steps=3)


@pytest.fixture(scope="module")
def collected(session, tmp_path_factory):
    training = session.images("a cow", [5])[0]
    cases = [
        Case("a photo of a goat", "memorized", "1", training, 64),
        Case("goats " * 100, "control", "2"),
    ]
    store = tmp_path_factory.mktemp("sweep") / "edits.zarr"
    asked = {"similarity": ip.metrics.ssim, "threshold": 0.5, "seeds": 2, "edited": 2}
    return cases, report.collect(session, cases, store=store, **asked)


def test_what_is_collected_is_what_runs_give(session, collected):
    cases, data = collected
    run = session.run(cases[0].text, range(2), record=ip.mass, images=True)
    np.testing.assert_array_equal(data.image[0], run.image[0])
    expected = run.mass[0].mean(["head", "seed"]).transpose("step", "layer", "category")
    np.testing.assert_allclose(data.mass[0], expected, atol=1e-6)
    scores = detect.scan(session, [cases[0].text], range(2))
    for name in data.detector.values:
        np.testing.assert_allclose(data.score[0].sel(detector=name), scores[name][0], rtol=1e-5)
    edited = session.run(cases[0].text, range(2), ip.zero("pad"))
    np.testing.assert_array_equal(data.edit_image.sel(patch="h")[0], edited.image[0])
    alike = ip.metrics.ssim(run.image[0], cases[0].image)
    np.testing.assert_allclose(data.similarity[0], alike, atol=1e-5)
    maps = data.overlay.sum("category")
    np.testing.assert_allclose(maps, np.ones_like(maps), atol=1e-5)


def test_shares_are_shapley_values(session, collected):
    cases, data = collected
    value = similarity(ip.metrics.ssim, cases[0].image)
    players = {name: name for name in PLAYERS}
    exact = ip.attribute.shapley(session, cases[0].text, "zero", value, range(2), players)
    phi = exact.phi.mean("seed").isel(prompt=0)
    np.testing.assert_allclose(data.phi.isel(prompt=0), phi, atol=1e-5)


def test_a_prompt_without_pads_has_no_share_of_them(collected):
    _, data = collected
    assert int(data.tokens[1].sel(category="pad")) == 0
    assert bool(data.phi.isel(prompt=1).isnull().all())
    assert bool(data.kept.isel(prompt=1).sel(patch="h").isnull().all())
    assert data.truncated.values[1]


def test_where_a_category_acts_is_what_patched_runs_say(session, collected):
    cases, data = collected
    judged = data.assign(verdict=("prompt", ["memorized", "not memorized"]))
    change = changes(session, judged)
    assert change.dims == ("prompt", "player", "step", "layer")
    assert bool(change.isel(prompt=1).isnull().all())
    layer = str(data.layer.values[2])
    pads = ip.zero("pad", layers=layer, steps=1)
    plain, patched = (
        session.trace(cases[0].text, [0], patch, half=False, trajectory="clean")
        for patch in (None, pads)
    )
    norms = [
        float((((t.eps_c - t.eps_u) ** 2).isel(prompt=0, seed=0, step=1)).sum() ** 0.5)
        for t in (plain, patched)
    ]
    cell = float(change.isel(prompt=0, step=1).sel(player="pad", layer=layer))
    assert cell == pytest.approx(norms[1] - norms[0], abs=1e-4)
    nobody = changes(session, data.assign(verdict=("prompt", ["unclear", "not memorized"])))
    assert bool(nobody.isnull().all())
