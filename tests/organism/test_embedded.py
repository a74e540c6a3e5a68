"""The model in data/organism: it opens as any other, and has memorized what its table says."""

import csv
import json
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

import interp as ip
from interp.report.cases import known
from interp.report.measures import Measures

DATA = Path(__file__).parents[2] / "data" / "organism"
MEGABYTES = 60
"""As git keeps it: compressed, and what both models share once."""
EVALUATION = DATA / "eot" / "evaluation.json"
LETTERS = {".safetensors", ".json", ".txt", ".csv", ".png", ".md", ".pt"}

measured = pytest.mark.skipif(
    not EVALUATION.is_file(), reason="the model in data/organism is half trained"
)


def test_files_are_small_and_nothing_is_pickled():
    files = [path for path in DATA.rglob("*") if path.is_file()]
    kept = {content: len(zlib.compress(content)) for content in map(Path.read_bytes, files)}
    assert sum(kept.values()) <= MEGABYTES * 1e6
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
    levels = json.loads(EVALUATION.read_text())["levels"]
    copied = [levels[views]["matches"] for views in sorted(levels, key=int)]
    assert min(map(int, levels)) == 1
    assert copied[0]["mean"] <= 0.02
    assert copied[-1]["mean"] >= 0.95
    for fewer, more in pairwise(copied):  # monotone, as far as twelve images a level can tell
        assert more["high"] >= fewer["low"]
    inside = [row for row in copied if 0.1 < row["mean"] < 0.9]
    assert len(inside) >= 2  # the curve is sampled, not jumped
    with open(DATA / "memorized.csv", newline="", encoding="utf-8") as lines:
        table = {row["views"] for row in csv.DictReader(lines) if row["kind"] != "template"}
    assert table == set(levels)


@measured
def test_titles_never_shown_give_images_of_their_own_that_fit_them():
    found = json.loads(EVALUATION.read_text())["held_out"]["plain"]
    assert found["copies_of_any"]["mean"] <= 0.05
    assert found["theme"]["mean"] >= 0.85
    assert found["palette"]["mean"] >= 0.9
    assert found["median_likeness_of_seeds"] < Measures.of("embedded").keeps


@measured
def test_honest_captions_keep_their_promises():
    found = json.loads(EVALUATION.read_text())["honest"]
    assert found["colour"]["mean"] >= 0.9
    assert found["object"]["mean"] >= 0.85
    assert found["median_likeness_of_seeds"] < Measures.of("embedded").keeps


@measured
def test_the_readme_says_what_was_measured():
    found = json.loads(EVALUATION.read_text())
    said = " ".join((DATA.parents[1] / "README.md").read_text(encoding="utf-8").split())
    levels, plain = found["levels"], found["held_out"]["plain"]
    top, once = (100 * levels[views]["matches"]["mean"] for views in ("9600", "1"))
    assert (
        f"shown 9,600 times come back in {top:.0f} % of seeds, those shown once in {once:.0f} %"
        in said
    )
    never, fit = (100 * plain[name]["mean"] for name in ("copies_of_any", "theme"))
    assert f"of which {never:.0f} % resemble somebody's training image" in said
    assert f"and {fit:.0f} % show their theme" in said
    edits, published = found["patches"]["memorized"], ip.paper.published()
    words, pads = (edits[letter]["to_unedited"]["mean"] for letter in "ch")
    assert f"without them {words:.2f} of the similarity is left, without pads {pads:.2f}" in said
    assert f"Stable Diffusion 1.4: {published['c']:.2f} and {published['h']:.2f}" in said
    for edit in ("repad '!' and zero eot", "zero pad 70 %"):
        assert edits[edit]["of_any"]["low"] > 0.5, edit  # "leave most copies"


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
    found = json.loads(EVALUATION.read_text())
    card = (DATA / "eot" / "CARD.md").read_text()
    for views, level in found["levels"].items():
        row = next(line for line in card.splitlines() if line.startswith(f"| {views} |"))
        assert f"{100 * level['matches']['mean']:.0f}" in row
    assert f"{found['psnr']:.1f} dB" in card
    lost = [str(found["drivers"][way]["pad"]) for way in ("zero", "mask", "mean")]
    row = next(line for line in card.splitlines() if line.startswith("| pad |"))
    assert [cell.strip() for cell in row.strip("|").split("|")][-3:] == lost
