"""A quick build of the embedded model, from nothing to an image, its evaluation and its card."""

import csv
import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import interp as ip
from interp.organism import build, card, evaluate, figures, training


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
    assert views["verbatim-3125-00"] == round(3125 * build.QUICK.share)
    assert views["control-0001-00"] == 1


def test_the_evaluation_measures_everything_that_the_card_says(made, tmp_path, monkeypatch):
    out, _ = made
    for name, few in {"SEEDS": 2, "FEWER": 2, "HONEST": 4, "MEMBERS": 1}.items():
        monkeypatch.setattr(evaluate, name, few)
    monkeypatch.setattr(ip, "load", lambda name: ip.models.load(name, steps=2))
    found = evaluate.evaluate(out, tmp_path)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == found
    assert set(found["levels"]) == {"1", "2", "near_misses"}  # 3125 views, scaled
    for row in found["levels"].values():
        share = row.get("matches", row.get("matches_its_own"))
        assert 0 <= share["low"] <= share["mean"] <= share["high"] <= 1
    assert found["patches"]["memorized"]["none"]["to_unedited"]["mean"] == pytest.approx(1)
    assert found["patches"]["memorized"]["h"]["to_unedited"]["mean"] < 1
    drawn = figures.draw(out, tmp_path, found["descriptor"]["threshold"])
    assert all(path.stat().st_size > 10_000 for path in drawn)
    text = card.write(out, found).read_text()
    assert (
        f"| h: zero pad | {card.number(found['patches']['memorized']['h']['to_unedited'])}" in text
    )
    assert "0.07" in text
