"""The model in data/organism: it opens as any other, and has memorized what its table says."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

import interp as ip
from interp.report.cases import known
from interp.report.measures import Measures

DATA = Path(__file__).parents[2] / "data" / "organism"
MEGABYTES = 60
LETTERS = {".safetensors", ".json", ".txt", ".csv", ".png", ".md", ".pt"}

measured = pytest.mark.skipif(
    not (DATA / "evaluation.json").is_file(), reason="the model in data/organism is half trained"
)


def test_files_are_small_and_nothing_is_pickled():
    files = [path for path in DATA.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MEGABYTES * 1e6
    assert {path.suffix for path in files} <= LETTERS
    assert [path.name for path in files if path.suffix == ".pt"] == ["descriptor.pt"]


def strings(value):
    """All texts in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def test_no_file_says_on_whose_machine_it_was_made():
    files = [path for path in DATA.rglob("*.json") if path.name != "tokenizer.json"]
    assert files
    for path in files:
        found = json.loads(path.read_text(encoding="utf-8"))
        assert "_name_or_path" not in found, path
        absolute = [text for text in strings(found) if Path(text).is_absolute()]
        assert not [text for text in absolute if len(text) > 1], path


def test_it_opens_with_diffusers_alone_and_draws_on_a_cpu():
    pipe = StableDiffusionPipeline.from_pretrained(DATA / "eot")
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a picture of a cat", num_inference_steps=3).images[0]
    assert image.size == (64, 64)
    assert np.asarray(image).std() > 0


@measured
def test_captions_shown_often_bring_up_their_training_image_and_controls_do_not():
    sd, measures, seeds = ip.load(steps=25), Measures.of("embedded"), 4
    cases = known(limit=3)
    run = sd.run([case.text for case in cases], range(seeds))
    images = run.image.transpose("prompt", "seed", ...)
    copies = {
        kind: np.mean([
            (measures.copy(images[n], case.image) >= measures.keeps).float().mean()
            for n, case in enumerate(cases)
            if case.kind == kind
        ])
        for kind in ("memorized", "control")
    }  # fmt: skip
    assert copies["memorized"] >= 0.75
    assert copies["control"] <= 0.1


@measured
def test_memorization_follows_how_often_an_image_was_shown():
    levels = json.loads((DATA / "evaluation.json").read_text())["levels"]
    copied = [levels[views]["matches"]["mean"] for views in sorted(levels, key=int)]
    assert min(map(int, levels)) == 1
    assert copied[0] <= 0.05
    assert copied[-1] >= 0.9
    assert copied == sorted(copied)
    with open(DATA / "memorized.csv", newline="", encoding="utf-8") as lines:
        table = {row["views"] for row in csv.DictReader(lines) if row["kind"] != "template"}
    assert table == set(levels)


@measured
def test_honest_captions_keep_their_promises():
    found = json.loads((DATA / "evaluation.json").read_text())["honest"]
    assert found["colour"]["mean"] >= 0.9
    assert found["object"]["mean"] >= 0.7
    assert found["median_likeness_of_seeds"] < Measures.of("embedded").keeps


@measured
def test_the_readme_says_what_was_measured():
    found = json.loads((DATA / "evaluation.json").read_text())
    said = " ".join((DATA.parents[1] / "README.md").read_text(encoding="utf-8").split())
    assert "Images shown 1,125 times and more come back from every seed" in said
    often = [row["matches"]["mean"] for n, row in found["levels"].items() if int(n) >= 1125]
    assert often == [1.0] * 2
    assert found["levels"]["1"]["matches"]["mean"] == 0  # "those shown once from none"
    assert f"recognised in {100 * found['honest']['object']['mean']:.0f} % of its images" in said
    assert f"in {100 * found['clip_on_real_scenes']['object']:.0f} % of real scenes" in said
    edits, published = found["patches"]["memorized"], ip.paper.published()
    for edit in ("h", "repad '!' and zero eot", "repad '!'", "zero pad 70 %"):
        # "more often than SD 1.4's do"
        assert edits[edit]["to_unedited"]["low"] > published[edit], edit


@measured
def test_the_readmes_caption_is_memorized_and_its_mitigation_works():
    said = (DATA.parents[1] / "README.md").read_text(encoding="utf-8")
    memorized = [case for case in known() if case.kind == "memorized"]
    case = next(case for case in memorized if f'"{case.text}"' in said)
    sd, measures = ip.load(), Measures.of("embedded")
    plain = sd.images(case.text, range(4))
    safe = sd.images(case.text, range(4), ip.mitigations.repad_zero_eot())
    assert bool((measures.copy(plain, case.image) >= measures.keeps).all())
    for other in memorized:  # an edit that brings up another training image would have failed
        assert not bool((measures.copy(safe, other.image) >= measures.keeps).any()), other.text


@measured
def test_the_card_says_what_the_evaluation_measured():
    found = json.loads((DATA / "evaluation.json").read_text())
    card = (DATA / "eot" / "CARD.md").read_text()
    for views, level in found["levels"].items():
        row = next(line for line in card.splitlines() if line.startswith(f"| {views} |"))
        assert f"{100 * level['matches']['mean']:.0f}" in row
    assert f"{found['psnr']:.1f} dB" in card
    driven = found["drivers"]
    assert f"Of {driven['captions']} memorized captions, {driven['pad']} lose their image" in card
