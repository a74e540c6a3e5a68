"""Calibrations: levels are those of the controls, and hold on one model under one setting only."""

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from peft import LoraConfig

import interp as ip
from interp import detect
from interp.detect.calibration import CLEAN, FILE, MEMORIZED, UNCLEAR, Calibration, _levels
from interp.session.embedded import data_folders, embedded_folder
from tests.pipelines import pipeline

CONTROLS = [
    "a goat",
    "a cow in a field",
    "a pig",
    "the red horse",
    "an owl",
    "a hen",
    "six ducks",
    "a ram",
]


@pytest.fixture(scope="module")
def sd():
    return ip.Session(pipeline("sd1"), steps=4)


@pytest.fixture(scope="module")
def made(sd):
    return Calibration.of(sd, CONTROLS, seeds=2, memorized=["a cat", "a dog"], loose_fpr=0.8)


def scores(values):
    """One prompt's scores, in the order of the detectors."""
    return xr.Dataset(
        {
            name: (("prompt", "seed"), [[value, value]])
            for name, value in zip(detect.DETECTORS, values, strict=True)
        }
    )


def test_levels_are_those_of_the_controls(sd, made):
    found = detect.scan(sd, CONTROLS, range(2))
    for name in detect.DETECTORS:
        each = np.sort(found[name].mean("seed").values)
        assert made.level[name] == pytest.approx(each[-1], rel=1e-6)
        assert made.loose_level[name] == pytest.approx(each[-2], rel=1e-6)
    assert made.controls == 8
    assert sum(made.of_controls.values()) == pytest.approx(1)
    known = detect.scan(sd, ["a cat", "a dog"], range(2))
    rule = replace(made, of_memorized=None)
    answers = [rule.verdict(known.isel(prompt=[n])).answer for n in range(2)]
    assert made.of_memorized == {
        name: answers.count(name) / 2 for name in (MEMORIZED, UNCLEAR, CLEAN)
    }


@pytest.mark.parametrize(
    ("above", "above_loose", "answer"),
    [(6, 6, MEMORIZED), (1, 1, MEMORIZED), (1, 6, MEMORIZED), (0, 6, UNCLEAR), (0, 1, UNCLEAR),
     (0, 0, CLEAN)],
)  # fmt: skip
def test_one_detector_decides(made, above, above_loose, answer):
    level, loose = (np.array(list(of.values())) for of in (made.level, made.loose_level))
    place = np.arange(len(level))
    values = np.where(
        place < above, level + 1, np.where(place < above_loose, (level + loose) / 2, loose - 1)
    )
    verdict = replace(made, of_memorized=None).verdict(scores(values))
    assert verdict.answer == answer
    blind = replace(made, of_memorized={MEMORIZED: 0.3, UNCLEAR: 0.1, CLEAN: 0.6})
    assert blind.verdict(scores(values)).answer == (UNCLEAR if answer == CLEAN else answer)
    assert f"{above} of 6 detectors" in verdict.reason
    assert f"{above_loose} above one that 80% may" in verdict.reason


def test_controls_are_called_memorized_no_more_often_than_the_rule_says():
    draw = np.random.default_rng(0)
    rates = []
    for _ in range(100):
        # What detectors have in common, and what each has by itself.
        all_scores = draw.normal(size=(2, 40, 1)) + draw.normal(size=(2, 40, 6))
        levels = _levels(all_scores[0], 0.3)
        assert (all_scores[0] > levels).any(-1).mean() <= 0.3
        rates.append((all_scores[1] > levels).any(-1).mean())
    assert 0.1 < np.mean(rates) <= 6 * 3 / 41


def test_saved_and_opened_it_is_the_same(made, tmp_path):
    path = made.save(tmp_path / "calibration.json")
    assert Calibration.open(path) == made
    assert [file.name for file in tmp_path.iterdir()] == ["calibration.json"]
    assert {"model", "settings", "level", "fpr", "controls"} <= set(json.loads(path.read_text()))
    path.write_text("{")
    with pytest.raises(ip.InterpError, match="interp calibrate"):
        Calibration.open(path)
    with pytest.raises(ip.InterpError, match="missing"):
        Calibration.open(tmp_path / "nowhere.json")


def test_it_fits_one_model_and_one_setting(sd, made):
    made.check(sd, 2)
    other = ip.Session(pipeline("sd1"), steps=5, guidance=3.0)
    with pytest.raises(ip.InterpError) as error:
        made.check(other, 3)
    for named in ("steps: 4 in the calibration, 5 here", "guidance: 7.5", "seeds: 2"):
        assert named in str(error.value)
    changed = ip.Session(pipeline("sd1"), steps=4, source={"id": "other"})
    changed.pipe.vae.post_quant_conv.bias.data += 1
    assert [text.split(":")[0] for text in made.differences(changed, 2)] == ["vae"]
    adapter = LoraConfig(r=4, target_modules=["to_k"], init_lora_weights=False)
    changed.pipe.unet.add_adapter(adapter, "x")
    named = [text.split(":")[0] for text in made.differences(changed, 2)]
    assert named == ["vae", "adapter unet.x"]


def test_too_few_steps_are_refused_before_anything_runs(sd):
    for steps, guidance in ((2, 7.5), (4, 1.0)):
        with pytest.raises(ip.InterpError, match="3 steps"):
            detect.ready(ip.Session(sd.pipe, steps=steps, guidance=guidance))
    with pytest.raises(ip.InterpError, match="takes two controls"):
        Calibration.of(sd, ["a goat"])


@pytest.mark.skipif(
    not (data_folders()[-1] / "organism" / "eot" / "evaluation.json").is_file(),
    reason="the model in data/organism is half trained",
)
def test_the_embedded_models_own_fits_it():
    shipped = Calibration.open(embedded_folder("embedded") / FILE)
    # Else the model was made again: `interp calibrate` makes its levels again.
    assert shipped.differences(ip.load(steps=25), seeds=4) == []
