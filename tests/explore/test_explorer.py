"""What the explorer shows is what its line of Python makes, and costs what is new in it."""

import base64
import io
import itertools

import numpy as np
import pytest
from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from PIL import Image

import interp as ip
from interp.explore.call import call, line, place
from interp.explore.choice import OPERATIONS, Choice
from interp.explore.explorer import Explorer
from interp.explore.runs import Runs
from interp.metrics import SSIM
from interp.patch import Where
from interp.report.cases import Case
from interp.report.measures import Measures

TEXT = "wow, an antique church poster!"
STEPS = 4
HOSTILE = "</script><img src=x onerror=alert(1)> \"'\\ \u202e \n {{ 7 }} __import__('os')"
CHOICES = [
    {"operation": "none", "seed": 7},
    {"operation": "zero", "categories": ["pad"], "amount": 0.7},
    {"operation": "zero", "categories": ["prompt", "eot"], "side": "v", "steps": [2, 4]},
    {"operation": "mask", "categories": ["pad"], "steps": [1, 2], "side": "k"},
    {"operation": "swap", "categories": ["pad"], "donor": HOSTILE, "heads": {"mid.0": [1]}},
    {"operation": "copy", "categories": ["pad"], "source": "prompt"},
    {"operation": "copy", "categories": ["prompt"], "source": "eot", "heads": {"mid.0": [0, 1]}},
    {"operation": "repad", "token": "!", "steps": [0, 2]},
    {"operation": "scale", "categories": ["sot"], "amount": 1.25},
    {"operation": "scale", "categories": ["sot"], "amount": 2, "side": "kv"},
    {"operation": "noise", "categories": ["pad"], "amount": 0.5, "steps": [3, 4]},
]


@pytest.fixture
def sd(sd1):
    return ip.Session(sd1, steps=STEPS, guidance=7.5)


@pytest.fixture
def explorer(sd):
    picture = Image.new("RGB", (sd.width, sd.height), "orange")
    return Explorer(sd, [Case(TEXT, "memorized", "a", picture)], Measures(SSIM(), None, 0.5))


def pixels(address):
    head, data = address.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def look(explorer, ask="look", **choice):
    return explorer.answer({"id": 1, "ask": ask, "choice": {"text": TEXT, **choice}})


def run_line(sd, answer):
    """The image that the shown Python makes, on a session that never saw the explorer."""
    fresh = ip.Session(sd.pipe, steps=sd.steps, guidance=sd.guidance)
    return np.asarray(eval(answer["line"], {"ip": ip, "sd": fresh}))


@pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: choice["operation"])
def test_the_line_of_python_makes_the_image_that_is_shown(explorer, sd, choice):
    shown = look(explorer, **choice)
    said = look(explorer, "read", **choice)
    key = "without" if choice["operation"] == "none" else "with"
    assert (pixels(shown[key]) == run_line(sd, said)).all()
    assert explorer.line == said["line"]
    if key == "with":
        assert explorer.patch == eval(said["line"].split("patch=")[1][:-4], {"ip": ip, "sd": sd})
        assert (pixels(shown["with"]) != pixels(shown["without"])).any()
        assert shown["kept"] < 1


def test_hostile_prompts_are_quoted_in_the_line_and_make_their_image(explorer, sd):
    shown = look(explorer, text=HOSTILE)
    said = look(explorer, "read", text=HOSTILE)
    assert (pixels(shown["without"]) == run_line(sd, said)).all()
    assert "\n" not in said["line"]
    assert "\u202e" not in said["line"]


def test_every_operation_of_the_page_is_tried_here():
    assert {choice["operation"] for choice in CHOICES} == {"none", *OPERATIONS}


@pytest.mark.parametrize("made", [DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler])
def test_steps_before_the_patch_are_not_computed_again(sd, made, monkeypatch):
    """Also where the scheduler remembers steps, or adds noise of its own."""
    monkeypatch.setattr(sd.pipe, "scheduler", made.from_config(sd.pipe.scheduler.config))
    computed = []
    handle = sd.pipe.unet.conv_in.register_forward_hook(lambda *_: computed.append(1))
    runs, a, late = Runs(sd), sd.encode(TEXT), ip.zero("pad", steps=range(3, STEPS))
    try:
        runs.image(a, 0)
        assert len(computed) == STEPS
        image = runs.image(a, 0, late)
        assert len(computed) == STEPS + 1
        assert (runs.image(a, 0, late) == image).all()
        assert len(computed) == STEPS + 1
    finally:
        handle.remove()
    assert (image == np.asarray(sd.images(a, patch=late)[0])).all()
    assert "forward" not in vars(sd.pipe.unet)


def test_a_pipeline_that_was_changed_draws_anew(explorer, sd, monkeypatch):
    before = look(explorer)["without"]
    monkeypatch.setattr(sd, "guidance", 2.0)
    after = look(explorer)["without"]
    assert after != before
    assert (pixels(after) == np.asarray(sd.images(TEXT)[0])).all()


def test_places_are_said_shortly_and_mean_the_same(sd):
    layers = ip.sites(sd.pipe.unet)
    options = [[(), tuple(range(site.heads)), (0,)] for site in layers]
    for heads in itertools.product(*options):
        chosen = {site: these for site, these in zip(layers, heads, strict=True) if these}
        if chosen:
            said = place([(site.name, these) for site, these in chosen.items()], layers)
            assert Where(**said).heads_at(layers) == chosen
    blocks = {site.name: tuple(range(site.heads)) for site in layers if site.block == "up"}
    assert place(list(blocks.items()), layers) == {"layers": "up"}


def test_a_preview_is_a_run_of_fewer_steps(explorer, sd, monkeypatch):
    monkeypatch.setattr(sd, "steps", 12)
    shown = look(explorer, "quick", operation="zero", steps=[6, 12])
    few = ip.Session(sd.pipe, steps=3, guidance=sd.guidance)
    patch = ip.zero("pad", steps=range(1, 3))
    assert (pixels(shown["with"]) == np.asarray(few.images(TEXT, patch=patch)[0])).all()


def test_the_dataset_has_both_images(explorer, sd):
    shown = look(explorer, operation="zero", seed=3)
    run = explorer.run
    assert run.image.sizes["patch"] == 2
    plain = np.asarray(run.image.sel(patch="without").isel(prompt=0, seed=0))
    assert np.abs(plain.astype(int) - pixels(shown["without"])).max() <= 1
    assert run.mass.sum("category").min() > 0.999


def test_similarity_is_the_measures_own(explorer):
    shown = look(explorer, operation="zero")
    training = Image.fromarray(pixels(look(explorer, "read")["training"]))
    for name in ("without", "with"):
        (expected,) = SSIM()([Image.fromarray(pixels(shown[name]))], training).tolist()
        assert shown["training"][name]["similarity"] == pytest.approx(expected)
        assert shown["training"][name]["copy"] == (expected >= 0.5)


def test_attention_is_that_of_the_run(explorer, sd):
    found = look(explorer, "attend", operation="zero", steps=[2, 4])
    mass = np.frombuffer(base64.b64decode(found["mass"]["bytes"]), np.uint8)
    mass = mass.reshape(found["mass"]["shape"]) / 255
    run = sd.run(TEXT, patch=ip.zero("pad", steps=range(2, 4)), record=ip.mass).mass
    expected = run.isel(prompt=0, seed=0).mean("head").transpose("step", "layer", "category")
    assert found["layers"] == ["all layers", *run.layer.values]
    assert np.abs(mass[:, 1:] - expected.values).max() <= 0.5 / 255 + 1e-6
    assert np.abs(mass[:, 0] - expected.mean("layer").values).max() <= 0.5 / 255 + 1e-6


def test_the_map_is_the_causal_trace(explorer, sd):
    found = look(explorer, "map", operation="zero", steps=[3, 4], heads={"mid.0": [0]})
    traced = ip.attribute.causal_trace(sd, TEXT, ip.zero("pad"))
    change = ((traced["value"] - traced.clean) / traced.clean).squeeze()
    expected = change.transpose("layer", "step").values
    assert np.allclose(found["change"], expected, atol=1e-4)


@pytest.mark.parametrize(
    "question",
    [
        {"ask": "nothing"},
        {"ask": "look", "choice": {"seed": -1}},
        {"ask": "look", "choice": {"seed": "0"}},
        {"ask": "look", "choice": {"text": ["a"]}},
        {"ask": "look", "choice": {"__class__": "x"}},
        {"ask": "look", "choice": {"operation": "__init__"}},
        {"ask": "look", "choice": {"operation": "zero", "categories": []}},
        {"ask": "look", "choice": {"operation": "zero", "categories": ["words"]}},
        {"ask": "look", "choice": {"operation": "zero", "heads": {"up.9": [0]}}},
        {"ask": "look", "choice": {"operation": "zero", "heads": {"mid.0": [99]}}},
        {"ask": "look", "choice": {"operation": "zero", "heads": {}}},
        {"ask": "look", "choice": {"operation": "zero", "steps": [2, 2]}},
        {"ask": "look", "choice": {"operation": "zero", "steps": [STEPS, STEPS + 1]}},
        {"ask": "look", "choice": {"operation": "zero", "side": "q"}},
        {"ask": "look", "choice": {"operation": "repad", "token": "no token"}},
    ],
)
def test_what_cannot_be_is_an_answer_in_three_sentences(explorer, question):
    answer = explorer.answer({"id": 5, **question})
    assert answer["id"] == 5
    assert len(answer["error"]) == 3


def test_a_dropped_question_ends_and_leaves_nothing_behind(explorer, sd, monkeypatch):
    seen = []

    def drop_at_step_two(*_):
        seen.append(1)
        if len(seen) == 2:
            explorer.drop(1)

    handle = sd.pipe.unet.register_forward_hook(drop_at_step_two)
    try:
        assert look(explorer, operation="zero") == {"id": 1, "dropped": True}
    finally:
        handle.remove()
    assert len(seen) == 2
    assert ip.installed(sd.pipe) == []
    shown = explorer.answer({"id": 2, "ask": "look", "choice": {"text": TEXT}})
    assert (pixels(shown["without"]) == np.asarray(sd.images(TEXT)[0])).all()


def test_a_choice_says_what_is_usual_with_few_words(sd):
    layers = ip.sites(sd.pipe.unet)
    choice = Choice.read({"text": "a goat", "operation": "zero"})
    assert line(choice, call(choice, layers, sd.encode)) == (
        "sd.images('a goat', seeds=[0], patch=ip.zero('pad'))[0]"
    )
