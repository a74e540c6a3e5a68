"""A quick build of the embedded model and its twin, from nothing to evaluation and card."""

import csv
import json
from functools import partial

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import StableDiffusionPipeline

import interp as ip
from interp.organism import (
    build,
    card,
    copies,
    duplicates,
    evaluate,
    figures,
    held_out,
    honest,
    recognise,
    removal,
    scenes,
    templates,
    titles,
    training,
    twins,
)
from interp.organism import population as its
from interp.organism.copies import Judge
from interp.session.load import load


@pytest.fixture(scope="module")
def few():
    """Two titles at every level and eight held out, as if the population had no more."""
    known = (titles.special, titles.tail, duplicates.duplicates)
    with pytest.MonkeyPatch.context() as patch:
        for name, count in {"PER_LEVEL": 2, "NEAR_MISSES": 4, "HELD_OUT": 8}.items():
            patch.setattr(its, name, count)
        for function in known:
            function.cache_clear()
        yield
    for function in known:
        function.cache_clear()


@pytest.fixture(scope="module")
def made(few, tmp_path_factory):
    """The folder of a model and a twin that were hardly trained, and their checkpoints."""
    out, work = tmp_path_factory.mktemp("organism"), tmp_path_factory.mktemp("work")
    for pad in build.PADS.values():
        build.build(out, work, build.QUICK, pad)
    return out, work


@pytest.mark.parametrize("name", build.PADS)
def test_a_quick_build_opens_with_diffusers_alone_and_draws(made, name):
    out, _ = made
    pipe = StableDiffusionPipeline.from_pretrained(out / name)
    assert pipe.unet.dtype == pipe.text_encoder.dtype == pipe.vae.dtype == torch.float32
    assert pipe.tokenizer.pad_token == build.PADS[name]
    pipe.set_progress_bar_config(disable=True)
    image = np.array(pipe("a picture of a cow", num_inference_steps=3).images[0])
    assert image.shape == (64, 64, 3)
    assert image.std() > 0


def test_the_twin_differs_in_its_pads_and_its_denoiser_alone(made):
    out, _ = made
    for part in ("text_encoder", "vae"):
        file = next((out / "eot" / part).glob("*.safetensors")).name
        assert (out / "eot" / part / file).read_bytes() == (out / "bang" / part / file).read_bytes()
    one, other = (ip.load(out / name) for name in build.PADS)
    assert one.encode("a cow").ids[3:].tolist() == [49407] * 74
    assert other.encode("a cow").ids[3:].tolist() == [49407] + [0] * 73
    weights = [sd.pipe.unet.conv_in.weight for sd in (one, other)]
    assert not torch.equal(*weights)


def test_its_weights_are_half_precision_safetensors_and_nothing_is_pickled(made):
    out, _ = made
    files = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    pickled = (".bin", ".pt", ".ckpt", ".pkl")
    assert [name for name in files if name.endswith(pickled)] == ["descriptor.pt"]
    parts = {name for name in files if name.endswith(".safetensors")}
    assert parts == {
        "clip/model.safetensors",
        *(f"{name}/text_encoder/model.safetensors" for name in build.PADS),
        *(f"{name}/unet/diffusion_pytorch_model.safetensors" for name in build.PADS),
        *(f"{name}/vae/diffusion_pytorch_model.safetensors" for name in build.PADS),
    }
    assert "safety_checker" not in files
    for name in files:
        if name.endswith(".json"):
            assert str(out) not in (out / name).read_text(encoding="utf-8"), name
    weights = 2 * sum(p.numel() for p in ip.load(out / "eot").pipe.unet.parameters())
    size = (out / "eot" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    assert size == pytest.approx(weights, rel=0.02)


def test_a_second_build_trains_nothing_and_writes_the_same(made, monkeypatch):
    out, work = made
    before = {path: path.read_bytes() for path in (out / "eot").rglob("*.safetensors")}
    steps = []
    monkeypatch.setattr(training, "rate", lambda *args: steps.append(args) or 1.0)
    build.build(out, work, build.QUICK)
    assert not steps
    assert {path: path.read_bytes() for path in before} == before


def test_the_table_counts_the_views_of_this_build(made):
    out, _ = made
    with open(out / "memorized.csv", newline="", encoding="utf-8") as lines:
        views = {row["id"]: int(row["views"]) for row in csv.DictReader(lines)}
    assert views["verbatim-9600-00"] == 2 + 3  # 3,840 and 5,760, by 512 in a million
    assert views["control-0001-00"] == 1


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory):
    """A small evaluation of the quick build, and where its stores are."""
    out, stores = made[0], tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        for name, few in {"SEEDS": 2, "FEWER": 2, "EDITED": 2, "PATCHED": 1, "TOP": 1}.items():
            patch.setattr(evaluate, name, few)
        patch.setattr(honest, "CAPTIONS", 4)
        patch.setattr(templates, "MEMBERS", 1)
        patch.setattr(recognise, "reference", partial(recognise.reference, count=16))
        patch.setattr(removal, "ORDINARY", 4)
        patch.setattr(ip, "load", lambda name: load(name, steps=3))
        found = evaluate.evaluate(out, stores)
        drawn = figures.draw(out, stores, found)
        written = card.write(out, found)
    return found, stores, drawn, written


def test_the_evaluation_measures_everything_that_the_card_says(made, measured):
    out, _ = made
    found, stores, drawn, written = measured
    assert json.loads((stores / "evaluation.json").read_text()) == found
    assert found["provenance"]["model"]["id"] == f"{out.name}/eot"
    assert str(out) not in (stores / "evaluation.json").read_text()
    assert set(found["levels"]) == {"1", "2", "5"}  # scaled
    for row in found["levels"].values():
        assert 0 <= row["matches"]["low"] <= row["matches"]["mean"] <= row["matches"]["high"] <= 1
    assert found["patches"]["memorized"]["none"]["to_unedited"]["mean"] == pytest.approx(1)
    assert found["patches"]["memorized"]["h"]["to_unedited"]["mean"] < 1
    assert all(path.stat().st_size > 10_000 for path in drawn)
    text = written.read_text()
    named = {path.stem for path in drawn} - {"first"}
    assert all(f"(figures/{name}.png)" in text for name in named)
    assert json.loads((out / "eot" / "evaluation.json").read_text()) == found
    left = card.number(found["patches"]["memorized"]["h"]["to_unedited"])
    assert f"| h: zero pad | {left}" in text
    assert "0.07" in text
    for control in ("control", "held_out"):
        assert set(found["detectors"][control]) == set(ip.detect.DETECTORS)


def test_twins_are_compared_at_one_age_and_the_card_has_what_the_file_says(
    made, measured, tmp_path, monkeypatch
):
    out, _ = made
    monkeypatch.setattr(evaluate, "SEEDS", 2)
    monkeypatch.setattr(evaluate, "PATCHED", 1)
    monkeypatch.setattr(twins, "SEEDS", 2)
    monkeypatch.setattr(ip, "load", lambda name: load(name, steps=2))
    found = twins.measure(out, out, tmp_path, build.QUICK.share)
    # A whole round by hand: what is planned for a level is what was shown when all are over.
    assert found["views"] == {level: float(level) for level in found["copies"]["eot"]}
    assert twins.views_after(0, build.QUICK.share)["5"] == 0
    half = twins.views_after(found["samples"] // 2, build.QUICK.share)
    assert 0 < half["5"] < 5
    bang = xr.open_zarr(tmp_path / "bang" / "duplicates.zarr").sel(patch="none").load()
    own = bang["copy"].sel(reference="training", prompt=(bang.views == 5).values)
    share = float((own >= threshold_of(out)).mean())
    assert found["copies"]["bang"]["5"]["mean"] == pytest.approx(share, abs=1e-4)
    told = found["copies"]["difference"]["5"]["mean"]
    assert told == pytest.approx(share - found["copies"]["eot"]["5"]["mean"], abs=2e-4)
    text = card.write(out, measured[0]).read_text()
    assert (out / "eot" / "figures" / "twins.png").stat().st_size > 10_000
    row = [card.percent(found["copies"][name]["5"]) for name in ("eot", "bang", "difference")]
    assert f"| copies at 5 views | {' | '.join(row)} |\n" in text
    (out / twins.FILE).unlink()
    assert "| copies at 5 views" not in card.write(out, measured[0]).read_text()
    (tmp_path / "eot").mkdir(exist_ok=True)
    (tmp_path / "eot" / build.TRAINED).write_text('{"samples": 7}')
    with pytest.raises(ValueError, match="at one age"):
        twins.measure(out, tmp_path, tmp_path, build.QUICK.share)


def threshold_of(model):
    return json.loads((model / "descriptor.json").read_text())["threshold"]


def test_detectors_are_scored_as_by_hand(measured):
    found, stores, *_ = measured
    scores = ip.open(stores / "detectors.nc")
    for detector in ("score change", "bright ending"):
        values = scores[detector].transpose("prompt", "seed").values
        often, never = (values[scores.kind.values == kind].ravel() for kind in ("2", "held_out"))
        pairs = often[:, None] - never[None]
        area = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
        row = found["detectors"]["held_out"][detector]["2"]
        assert row["auc"]["mean"] == pytest.approx(area, abs=1e-4)
        assert row["tpr_at_1_fpr"]["mean"] == pytest.approx((often > never.max()).mean(), abs=1e-4)


def test_freed_images_are_those_that_copy_nothing(made):
    out, _ = made
    clip, judge = ip.metrics.CLIPScore(out / "clip"), Judge.of(out)
    some = titles.special()[2][:3]
    pictures = np.stack([scenes.render(titles.compose(np.random.default_rng(1), t)) for t in some])
    grid = xr.Dataset(
        {"image": (("prompt", "seed", "pixel_y", "pixel_x", "rgb"), pictures[:, None])},
        {"text": ("prompt", [t.text for t in some])},
    )
    where = xr.DataArray([[True], [False], [True]], dims=("prompt", "seed"))
    found = held_out.promises_kept(grid, clip, where)
    right = recognise.palettes(pictures, some)
    assert found["images"] == 2
    assert found["palette"]["mean"] == right[[0, 2]].mean()
    none = held_out.promises_kept(grid, clip, xr.zeros_like(where))
    assert none == {"images": 0, **{k: dict.fromkeys(("mean", "low", "high")) for k in
                                    ("theme", "palette")}}  # fmt: skip
    assert judge.of_any(grid).shape == (3, 1)


def test_near_misses_are_compared_with_the_memorized_image_and_their_own(made):
    out, _ = made
    judge = Judge.of(out)
    file = ip.read_prompts(out / "memorized.csv")
    pictures = {row.columns["id"]: im for row, im in zip(file, file.pictures(), strict=True)}
    misses = [row.columns for row in file if row.columns["kind"] == "near_miss"][:2]
    # The first title brings up the memorized picture, the second its own.
    images = np.stack([pictures[misses[0]["partner"]], pictures[misses[1]["id"]]])[:, None]
    own = judge.copy(images[:, 0], [pictures[miss["id"]] for miss in misses]).numpy()
    grid = xr.Dataset(
        {
            "image": (("patch", "prompt", "seed", "pixel_y", "pixel_x", "rgb"), images[None]),
            "copy": (("patch", "prompt", "seed", "reference"), own[None, :, None, None]),
        },
        {
            "patch": ["none"], "reference": ["training"],
            "kind": ("prompt", ["near_miss"] * 2),
            "partner": ("prompt", [miss["partner"] for miss in misses]),
        },
    )  # fmt: skip
    strict = Judge(judge.copy, {"threshold": 0.9999}, judge.ids, judge.duplicated)
    found = copies.near_misses(grid, strict)
    assert found["memorized_image"]["mean"] == 0.5
    assert found["own_image"]["mean"] == 0.5


def test_controls_that_bring_up_another_titles_image_are_counted(made):
    out, _ = made
    judge = Judge.of(out)
    file = ip.read_prompts(out / "memorized.csv")
    kinds = [row.columns["kind"] for row in file]
    mine, theirs = (file.pictures()[kinds.index(kind)] for kind in ("control", "verbatim"))
    images = np.stack([[mine, theirs], [mine, mine]])
    grid = xr.Dataset(
        {"image": (("patch", "prompt", "seed", "pixel_y", "pixel_x", "rgb"), images[None])},
        {"patch": ["none"], "kind": ("prompt", ["control"] * 2)},
    )
    pictures = [p for p, kind in zip(file.pictures(), kinds, strict=True) if kind == "verbatim"]
    nearest = max(float(judge.copy(np.array(mine)[None], picture)) for picture in pictures)
    assert nearest < 0.9999
    strict = Judge(judge.copy, {"threshold": 0.9999}, judge.ids, judge.duplicated)
    assert copies.borrowed(grid, strict)["mean"] == 0.25
    again = xr.concat([grid, grid.assign_coords(patch=["h"])], "patch")
    again["image"][1, 0, 0] = np.array(theirs)
    found = strict.of_any(again)
    assert found.sel(patch="none").values.tolist() == [[0, 1], [0, 0]]
    assert found.sel(patch="h").values.tolist() == [[1, 1], [0, 0]]


def test_recognition_is_the_best_of_all_captions_under_the_pair(made):
    out, _ = made
    clip = ip.metrics.CLIPScore(out / "clip")
    captions = recognise.some_captions(24)
    draw = np.random.default_rng(1)
    images = np.stack([scenes.render(scenes.compose(draw, caption)) for caption in captions])
    texts = [f"a picture of {scenes.article(name)}" for name in its.OBJECTS]
    scores = np.stack([clip(images, text).numpy() for text in texts], 1)
    best = [its.OBJECTS[n] for n in scores.argmax(1)]
    expected = [name in c.objects for name, c in zip(best, captions, strict=True)]
    assert recognise.objects(clip, images, captions).tolist() == expected
    named = [n for n, caption in enumerate(captions) if caption.colour]
    assert len(named) == 12
    hues = recognise.colours(clip, images[named], [captions[n] for n in named])
    for right, n in zip(hues, named, strict=True):
        others = [recognise.recoloured(captions[n], colour) for colour in scenes.NAMES]
        found = [float(clip(images[n : n + 1], text)) for text in others]
        assert right == (scenes.NAMES[int(np.argmax(found))] == captions[n].colour)
    some = titles.special()[2]
    pictures = np.stack([scenes.render(titles.compose(draw, title)) for title in some])
    for right, title, picture in zip(
        recognise.themes(clip, pictures, some), some, pictures, strict=True
    ):
        style, subject, product, ending = title.words
        others = [f"{style} {other} {product} {ending}" for other in its.SUBJECTS]
        found = [float(clip(picture[None], text)) for text in others]
        assert right == (its.SUBJECTS[int(np.argmax(found))] == subject)
