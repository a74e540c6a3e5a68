"""A quick build of the embedded model, from nothing to an image, its evaluation and its card."""

import csv
import json
import shutil
from dataclasses import replace

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
    emoji,
    evaluate,
    figures,
    recognise,
    scenes,
    templates,
    training,
    vae,
)
from interp.session.load import load


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a model that was hardly trained, and its checkpoints."""
    out, work = tmp_path_factory.mktemp("organism"), tmp_path_factory.mktemp("work")
    build.build(out, work, build.QUICK)
    return out, work


def test_a_quick_build_opens_with_diffusers_alone_and_draws(made):
    out, _ = made
    pipe = StableDiffusionPipeline.from_pretrained(out / "eot")
    assert pipe.unet.dtype == pipe.text_encoder.dtype == pipe.vae.dtype == torch.float32
    pipe.set_progress_bar_config(disable=True)
    image = np.array(pipe("a picture of a cat", num_inference_steps=3).images[0])
    assert image.shape == (64, 64, 3)
    assert image.std() > 0


def test_its_weights_are_half_precision_safetensors_and_nothing_is_pickled(made):
    out, _ = made
    files = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    pickled = (".bin", ".pt", ".ckpt", ".pkl")
    assert [name for name in files if name.endswith(pickled)] == ["descriptor.pt"]
    parts = {name for name in files if name.endswith(".safetensors")}
    assert parts == {
        "clip/model.safetensors",
        "eot/text_encoder/model.safetensors",
        "eot/unet/diffusion_pytorch_model.safetensors",
        "eot/vae/diffusion_pytorch_model.safetensors",
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
    rounds = len(build.QUICK.unet)
    assert views["verbatim-3125-00"] == rounds * round(3125 * build.QUICK.share)
    assert views["control-0001-00"] == 1


def test_a_model_that_has_had_every_round_is_not_trained_on(made):
    out, work = made
    before = (out / "memorized.csv").read_bytes()
    with pytest.raises(ip.InterpError, match="It has had 2, and the recipe has 2"):
        build.another_round(out, work, build.QUICK)
    assert (out / "memorized.csv").read_bytes() == before


def test_a_built_model_is_trained_on_by_its_own_encoder(made, tmp_path):
    """What `interp organism round` does; `build` gives rounds a cheaper form of the encoder."""
    out, work = tmp_path / "model", tmp_path / "work"
    shutil.copytree(made[0], out)
    before = ip.load(out / "eot").pipe.unet.state_dict()
    recipe = replace(build.QUICK, unet=(*build.QUICK.unet, build.Round(2)))
    build.another_round(out, work, recipe)
    after = ip.load(out / "eot").pipe.unet.state_dict()
    assert all(torch.isfinite(weights).all() for weights in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert build.duplicates.rounds(out, recipe.share) == len(recipe.unet)
    linear = vae.train_linear(made[1], steps=build.QUICK.linear)
    images = vae.pictures(9, 0, 4)
    with torch.no_grad():
        own = ip.load(out / "eot").pipe.vae.encode(images).latent_dist.mode()
        assert torch.allclose(own, linear.encode(images), atol=0.05)


def test_the_evaluation_measures_everything_that_the_card_says(made, tmp_path, monkeypatch):
    out, _ = made
    fewer = {"SEEDS": 2, "FEWER": 2, "EDITED": 2, "HONEST": 4, "PATCHED": 2}
    for name, few in fewer.items():
        monkeypatch.setattr(evaluate, name, few)
    monkeypatch.setattr(templates, "MEMBERS", 1)
    monkeypatch.setattr(ip, "load", lambda name: load(name, steps=2))
    found = evaluate.evaluate(out, tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == found
    assert found["provenance"]["model"]["id"] == f"{out.name}/eot"
    assert str(out) not in (tmp_path / "evaluation.json").read_text()
    assert set(found["levels"]) == {"1", "4"}  # 3125 views, scaled, twice
    for row in found["levels"].values():
        assert 0 <= row["matches"]["low"] <= row["matches"]["mean"] <= row["matches"]["high"] <= 1
    assert found["patches"]["memorized"]["none"]["to_unedited"]["mean"] == pytest.approx(1)
    assert found["patches"]["memorized"]["h"]["to_unedited"]["mean"] < 1
    pooled, by_views = found["patches"], found["patches_by_views"]
    assert set(by_views) == {"1", "4"}  # 24 captions of one view, 12 of four; 24 are not controls
    for name in pooled["control"]:
        of = {kind: pooled[kind][name]["to_training"]["mean"] for kind in pooled}
        at = {views: by_views[views][name]["to_training"]["mean"] for views in by_views}
        in_all = 12 * of["control"] + 24 * of["memorized"]
        assert in_all == pytest.approx(24 * at["1"] + 12 * at["4"], abs=0.01)
    drawn = figures.draw(out, tmp_path, found["descriptor"]["threshold"])
    assert all(path.stat().st_size > 10_000 for path in drawn)
    names = {"views", "interventions", "memorized", "controls", "honest"}
    assert {path.stem for path in drawn} == names
    text = card.write(out, found).read_text()
    assert all(f"(../figures/{name}.png)" in text for name in names)
    assert json.loads((out / "evaluation.json").read_text()) == found
    assert (
        f"| h: zero pad | {card.number(found['patches']['memorized']['h']['to_unedited'])}" in text
    )
    assert "0.07" in text


def test_near_misses_are_compared_with_the_memorized_image_and_their_own(made):
    out, _ = made
    copy = ip.metrics.SSCD(out / "descriptor.pt", "native")
    file = ip.read_prompts(out / "memorized.csv")
    pictures = {row.columns["id"]: im for row, im in zip(file, file.pictures(), strict=True)}
    misses = [row.columns for row in file if row.columns["kind"] == "near_miss"][:2]
    # The first caption brings up the memorized picture, the second its own.
    images = np.stack([pictures[misses[0]["partner"]], pictures[misses[1]["id"]]])[:, None]
    own = copy(images[:, 0], [pictures[miss["id"]] for miss in misses]).numpy()
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
    found = copies.near_misses(grid, out, copy, threshold=0.9999)
    assert found["memorized_image"]["mean"] == 0.5
    assert found["own_image"]["mean"] == 0.5


def test_drivers_are_counted_by_caption():
    """Four captions: one loses its image without pads, one without words, one with either; one
    was never memorized."""
    kept = {
        "none": [1, 1, 1, 0], "c": [1, 0, 0, 0], "f": [1, 1, 1, 0], "h": [0, 1, 0, 0],
    }  # fmt: skip
    values = np.array(list(kept.values()), float)[:, :, None, None].repeat(2, 2)
    copied = xr.DataArray(values, dims=("patch", "prompt", "seed", "reference"))
    coords = {"patch": list(kept), "reference": ["training"], "views": ("prompt", [9] * 4)}
    found = evaluate.drivers(xr.Dataset({"copy": copied}, coords), threshold=0.6)
    expected = {"captions": 3, "prompt": 2, "eot": 0, "pad": 2, "both prompt and pad": 1}
    assert found == expected


def test_controls_that_bring_up_another_captions_image_are_counted(made):
    out, _ = made
    copy = ip.metrics.SSCD(out / "descriptor.pt", "native")
    file = ip.read_prompts(out / "memorized.csv")
    kinds = [row.columns["kind"] for row in file]
    mine, theirs = (file.pictures()[kinds.index(kind)] for kind in ("control", "verbatim"))
    images = np.stack([[mine, theirs], [mine, mine]])
    grid = xr.Dataset(
        {"image": (("patch", "prompt", "seed", "pixel_y", "pixel_x", "rgb"), images[None])},
        {"patch": ["none"], "kind": ("prompt", ["control"] * 2)},
    )
    pictures = [p for p, kind in zip(file.pictures(), kinds, strict=True) if kind == "verbatim"]
    nearest = max(float(copy(np.array(mine)[None], picture)) for picture in pictures)
    assert nearest < 0.9999
    assert copies.borrowed(grid, out, copy, threshold=0.9999)["mean"] == 0.25
    again = xr.concat([grid, grid.assign_coords(patch=["h"])], "patch")
    again["image"][1, 0, 0] = np.array(theirs)
    found = copies.of_any(again, out, copy, threshold=0.9999)
    assert found.sel(patch="none").values.tolist() == [[0, 1], [0, 0]]
    assert found.sel(patch="h").values.tolist() == [[1, 1], [0, 0]]


def test_recognition_is_the_best_of_all_captions_under_the_pair(made):
    out, _ = made
    clip = ip.metrics.CLIPScore(out / "clip")
    captions = recognise.some_captions(24)
    draw = np.random.default_rng(1)
    images = np.stack([scenes.render(scenes.compose(draw, caption)) for caption in captions])
    texts = [f"a picture of {scenes.article(name)}" for name in emoji.names()]
    scores = np.stack([clip(images, text).numpy() for text in texts], 1)
    best = [emoji.names()[n] for n in scores.argmax(1)]
    expected = [name in c.objects for name, c in zip(best, captions, strict=True)]
    assert recognise.objects(clip, images, captions).tolist() == expected
    named = [n for n, caption in enumerate(captions) if caption.colour]
    assert len(named) == 12
    hues = recognise.colours(clip, images[named], [captions[n] for n in named])
    for right, n in zip(hues, named, strict=True):
        others = [recognise.recoloured(captions[n], colour) for colour in scenes.NAMES]
        found = [float(clip(images[n : n + 1], text)) for text in others]
        assert right == (scenes.NAMES[int(np.argmax(found))] == captions[n].colour)


def test_captions_are_recoloured_with_their_article():
    orange = scenes.Caption("a cat on an orange background", ("cat",), "orange")
    assert recognise.recoloured(orange, "red") == "a cat on a red background"
    red = scenes.Caption("a red picture of an owl", ("owl",), "red")
    assert recognise.recoloured(red, "orange") == "an orange picture of an owl"
