"""What workers share out besides a sweep's images: scores, prompts of a report, descriptors."""

import numpy as np
import pytest
import torch
import xarray as xr
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file

import interp as ip
from interp import audit, benchmark, detect, report
from interp.audit import Pair
from interp.metrics import SSCD
from interp.report.cases import Case
from interp.report.measures import Measures
from interp.report.scanned import scanned
from interp.sweep.cluster import Source, each
from tests.changing import adapted
from tests.pipelines import pipeline

SETTINGS = {"steps": 3, "height": 16, "width": 16}
PICTURE = Image.fromarray(np.full((16, 16, 3), 90, np.uint8))
CASES = [Case("a goat", "memorized", "a", PICTURE), Case("a red cow", "control", "b")]
CHEAP = {name: detect.METHODS[name] for name in ("guidance norm", "clique size", "early image")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny"
    pipeline("sd1").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def sd(folder):
    return ip.load(folder, **SETTINGS)


@pytest.fixture(scope="module")
def client():
    distributed = pytest.importorskip("distributed")
    with distributed.Client(processes=False, n_workers=2, dashboard_address=None) as client:
        yield client


def test_detectors_say_the_same_on_two_workers(sd, client, tmp_path):
    for how in (scanned, _scores):
        here, there = (
            how(sd, CASES, 2, tmp_path / f"{how.__name__}-{which is None}.zarr", client=which)
            for which in (None, client)
        )
        assert np.isfinite(here).any()
        xr.testing.assert_equal(here, there)


def _scores(*asked, client):
    return benchmark.detectors(*asked, CHEAP, client=client).score


def test_prompts_of_a_report_come_in_their_order(sd, client):
    similarity = ip.metrics.TileL2(4)
    here, there = (report.observe(sd, CASES, 2, similarity, which) for which in (None, client))
    assert here.text.values.tolist() == [case.text for case in CASES]
    xr.testing.assert_equal(here, there)


class Counting(SSCD):
    """The mean colour as a descriptor, which says how many images it was given."""

    def __init__(self):
        self.count = 0

    def __reduce__(self):
        return Counting, ()

    def descriptors(self, image):
        self.count += 1
        return torch.tensor(np.asarray(image).mean((0, 1))[None])


def test_an_image_that_lies_there_many_times_is_described_once(client, tmp_path):
    colours = [10, 20, 10, 10, 30, 20]
    for number, colour in enumerate(colours):
        Image.fromarray(np.full((4, 4, 3), colour, np.uint8)).save(tmp_path / f"{number}.png")
    pairs = [Pair("a goat", tmp_path / f"{number}.png") for number in range(len(colours))]
    pairs[3] = Pair("a cow", pairs[3].packed())
    same = audit.identical(pairs)
    assert np.array_equal(same[:, None] == same, np.equal.outer(colours, colours))
    copy = Counting()
    found = audit.described(pairs, same, copy)
    assert found.tolist() == [[colour] * 3 for colour in colours]
    assert copy.count == len(set(colours))
    assert torch.equal(audit.described(pairs, same, copy, client), found)


def test_an_audit_is_the_same_on_two_workers(sd, client, tmp_path):
    """One picture lies there twice, and a darker copy of it once."""
    measures = Measures.of("embedded")
    pixels = np.random.default_rng(0).integers(0, 200, (8, 8, 3), np.uint8)
    pictures = [pixels, pixels, pixels - pixels // 50, pixels[::-1] // 2]
    pairs = []
    for number, picture in enumerate(pictures):
        file = tmp_path / f"{number}.png"
        Image.fromarray(picture).resize((64, 64), Image.Resampling.NEAREST).save(file)
        pairs.append(Pair("a goat" if number < 3 else "a cow", file))
    here, there = (
        audit.audit(
            sd, pairs, 2, tmp_path / f"{which is None}.zarr", measures.copy, 0.9, client=which
        )
        for which in (None, client)
    )
    xr.testing.assert_equal(here, there)
    assert here.text.values.tolist() == ["a goat", "a cow"]
    assert here.shown.values.tolist() == [3, 1]
    assert here.exact.values.tolist() == [2, 1]
    goat = here.isel(prompt=0)
    mine = [measures.copy(goat.image.values, pairs[n].image()) for n in (0, 2)]
    np.testing.assert_allclose(goat.own, torch.stack(mine).amax(0), atol=1e-5)
    other = measures.copy(goat.image.values, pairs[3].image())
    np.testing.assert_allclose(goat.nearest, other, atol=1e-5)


def test_tasks_are_taken_as_workers_get_free(client):
    """The others wait with the caller, not with the scheduler."""
    taken = []

    def tasks():
        for number in range(100):
            taken.append(number)
            yield number, number

    for count, (place, data) in enumerate(each(client, None, _as_data, tasks())):
        assert data.number == place
        assert len(taken) <= count + 66
    assert len(taken) == count + 1 == 100


def _as_data(session, number):
    return xr.Dataset({"number": number})


def test_workers_load_the_lora_too(folder, tmp_path):
    pipe, file = pipeline("sd1"), tmp_path / "lora.safetensors"
    adapted(pipe)
    state = get_peft_model_state_dict(pipe.unet, adapter_name="x")
    save_file({f"unet.{name}": weight.contiguous() for name, weight in state.items()}, file)
    sd = ip.load(folder, lora=file, **SETTINGS)
    assert Source.of(sd).load().provenance() == sd.provenance()
    assert sd.model["adapters"] != ip.load(folder, **SETTINGS).model["adapters"]
