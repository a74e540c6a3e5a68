"""The table of detectors: what it says of each is what each does, alone and beside the others."""

import numpy as np
import pytest
import torch
import xarray as xr

import interp as ip
from interp import detect
from interp.detect import METHODS, Case, examine
from interp.detect.registry import DERIVATIVE
from interp.errors import InterpError
from tests.runs import TEXTS

SEEDS = (0, 5)


@pytest.fixture
def sd(sd2):
    """Velocities; each detector's own test has noise as well."""
    return ip.Session(sd2, steps=3, height=16, width=16)


@pytest.fixture
def make(sd):
    """Cases with everything that a detector may need, nothing of it made yet."""
    rng = np.random.default_rng(0)
    training = rng.integers(0, 256, (sd.height, sd.width, 3), dtype=np.uint8)
    controls = sd.trace(["the sea", "a red car", "two cats"], SEEDS, half=False)

    def case(seeds=SEEDS):
        return Case(sd, TEXTS[0], seeds, training=training, controls=controls)

    return case


@pytest.fixture
def counted(sd):
    """How many rows the UNet was given, and how many of its rows were differentiated, each time."""
    rows, derivatives = [], []

    def count(module, args, output):
        rows.append(len(output[0]))
        if torch._C._functorch.is_functorch_wrapped_tensor(output[0]):
            derivatives.append(len(output[0]))
        elif output[0].requires_grad:
            output[0].register_hook(lambda gradient: derivatives.append(len(gradient)))

    handle = sd.pipe.unet.register_forward_hook(count)
    yield rows, derivatives
    handle.remove()


def test_each_is_and_costs_together_what_it_is_and_costs_alone(sd, make, counted):
    """Also against the rows that the UNet was given, and the run is made once for all."""
    together, (rows, derivatives) = make(), counted
    rows.clear()
    found = examine(together)
    extra = sum(method.rows for method in METHODS.values())
    # At most: what several need of the first step is made once too.
    assert sum(rows) <= (2 * sd.steps + extra) * len(SEEDS)
    assert list(found) == list(METHODS)
    assert found.text.item() == TEXTS[0]
    for name, method in METHODS.items():
        case = make()
        rows.clear()
        derivatives.clear()
        alone = method.score(case)
        assert sum(derivatives) == method.derivatives * len(SEEDS), name
        assert bool(derivatives) == ("gradients" in method.needs)
        assert sum(rows) == (method.cost(sd) - DERIVATIVE * method.derivatives) * len(SEEDS), name
        assert found[name].rows == method.cost(sd)
        assert alone.dims in (("seed",), ())
        assert np.isfinite(alone).all()
        np.testing.assert_allclose(found[name], alone, rtol=1e-3, atol=1e-6, err_msg=name)


def test_seeds_do_not_see_each_other_unless_they_are_compared(make):
    methods = {name: method for name, method in METHODS.items() if "seeds" not in method.needs}
    together, alone = examine(make(), methods), examine(make(SEEDS[1:]), methods)
    for name in methods:
        beside = together[name].sel(seed=list(SEEDS[1:]))
        np.testing.assert_allclose(alone[name], beside, rtol=1e-3, atol=1e-6, err_msg=name)


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
    with pytest.raises(InterpError, match="It has 3"):
        traced.at(3)
