"""The table of detectors: what it says of each is what each does, alone and beside the others."""

import numpy as np
import pytest
import xarray as xr

import interp as ip
from interp import detect
from interp.detect import METHODS, Case, examine
from interp.errors import InterpError
from tests.runs import TEXTS

SEEDS = (0, 5)


@pytest.fixture(params=["sd1", "sd2"])
def sd(request):
    return ip.Session(request.getfixturevalue(request.param), steps=4, height=16, width=16)


@pytest.fixture
def make(sd):
    """Cases with everything that a detector may need, nothing of it made yet."""
    rng = np.random.default_rng(0)
    training = rng.integers(0, 256, (sd.height, sd.width, 3), dtype=np.uint8)
    controls = sd.trace(["the sea", "a red car", "two cats"], SEEDS, half=False)

    def case(seeds=SEEDS):
        return Case(sd, TEXTS[0], seeds, training=training, controls=controls)

    return case


def test_rows_are_counted_right(sd, make):
    """What the table says a detector costs, against the rows that the UNet was given."""
    seen = []
    handle = sd.pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        for name, method in METHODS.items():
            seen.clear()
            method.score(make())
            expected = method.cost(sd) - detect.registry.DERIVATIVE * method.derivatives
            assert sum(seen) == expected * len(SEEDS), name
    finally:
        handle.remove()


def test_together_they_are_what_they_are_alone_and_the_run_is_made_once(sd, make):
    seen = []
    handle = sd.pipe.unet.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    try:
        found = examine(make())
    finally:
        handle.remove()
    extra = sum(method.rows for method in METHODS.values())
    # At most: what several need of the first step is made once too.
    assert sum(seen) <= (2 * sd.steps + extra) * len(SEEDS)
    assert list(found) == list(METHODS)
    assert found.text.item() == TEXTS[0]
    for name, method in METHODS.items():
        alone = method.score(make())
        assert alone.dims in (("seed",), ())
        np.testing.assert_allclose(found[name], alone, rtol=1e-4, atol=1e-6)
        assert np.isfinite(found[name]).all()
        assert found[name].rows == method.cost(sd)


def test_seeds_do_not_see_each_other_unless_they_are_compared(make):
    together = examine(make())
    for name, method in METHODS.items():
        if "seeds" in method.needs:
            continue
        for seed in SEEDS:
            alone = method.score(make([seed]))
            np.testing.assert_allclose(
                alone.item(), together[name].sel(seed=seed).item(), rtol=2e-4, atol=1e-6
            )


def test_detectors_of_traces_are_the_first_and_the_same(sd, make):
    case = make()
    names = list(detect.DETECTORS)
    assert list(METHODS)[: len(names)] == names
    scores = detect.scores(case.trace).isel(prompt=0)
    for name in names:
        xr.testing.assert_equal(
            METHODS[name].score(case).reset_coords(drop=True), scores[name].reset_coords(drop=True)
        )


def test_what_a_case_lacks_is_left_out_or_named(sd):
    case = Case(sd, TEXTS[0], seeds=1)
    lacking = [name for name, method in METHODS.items() if method.lacks(case)]
    assert {"seed likeness", "clique size", "noise likeness"} <= set(lacking)
    for name in lacking:
        with pytest.raises(InterpError, match="The case lacks"):
            examine(case, {name: METHODS[name]})
        with pytest.raises(InterpError):
            METHODS[name].score(case)
    assert not set(examine(case)) & set(lacking)


def test_images_alone_are_the_traces_own(make):
    alone, traced = make(), make()
    assert "trace" not in vars(alone)
    assert alone.images.dims == ("seed", "pixel_y", "pixel_x", "rgb")
    assert traced.trace.sizes["seed"] == len(SEEDS)
    np.testing.assert_array_equal(alone.images, traced.images)
    with pytest.raises(InterpError, match="It has 4"):
        traced.at(4)
