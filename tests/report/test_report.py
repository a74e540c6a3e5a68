"""The report: what is shown is what was measured, and hostile prompts are only text."""

import json
from collections import defaultdict
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from markupsafe import Markup

import interp as ip
from interp import detect, report, results
from interp.cli import main
from interp.report import figures
from interp.report.assess import assess
from interp.report.edits import MITIGATION
from interp.report.findings import find
from interp.report.page import html, number
from interp.report.sections import reasons
from interp.report.words import EDITS
from tests.reporting import HOSTILE, THRESHOLD, dataset

VOID = {"meta", "img", "br", "input", "line", "circle", "path", "use", "rect"}


class Page(HTMLParser):
    """A page taken apart: its elements in order, with attributes and the text inside."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, **dict(attrs), "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append({"tag": tag, **dict(attrs), "text": ""})

    def handle_endtag(self, tag):
        while self._open and self._open.pop()["tag"] != tag:
            pass

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def of(self, tag, name=""):
        return [
            e
            for e in self.elements
            if e["tag"] == tag and name in ((e.get("class") or "").split() if name else [""])
        ]


@pytest.fixture(scope="module")
def hostile():
    return dataset(HOSTILE)


@pytest.fixture(scope="module")
def path(hostile, tmp_path_factory):
    return report.render(hostile, tmp_path_factory.mktemp("report"), figures=False)


@pytest.fixture(scope="module")
def page(path):
    return Page(path.read_text(encoding="utf-8"))


def test_hostile_prompts_are_shown_as_they_are_and_nothing_else(page, hostile):
    shown = [element["text"] for element in page.of("p", "said")]
    assert shown == hostile.text.values.tolist()
    scripts = page.of("script")
    assert len(scripts) == 1 + hostile.sizes["prompt"]
    assert [e.get("type") for e in scripts[:-1]] == ["application/json"] * 16
    handlers = [name for e in page.elements for name in e if name.startswith("on")]
    assert not handlers
    sources = [e["src"] for e in page.of("img")]
    assert all(source.startswith("data:image/") for source in sources)


def test_the_page_is_small_and_asks_for_nothing(path, page):
    assert path.stat().st_size < 10e6
    links = [v for e in page.elements for k, v in e.items() if k in ("href", "src", "xlink:href")]
    assert all(link.startswith(("#", "data:")) for link in links)
    policy = next(e["content"] for e in page.of("meta") if "http-equiv" in e)
    assert "default-src 'none'" in policy


def test_the_table_shows_the_dataset(page, hostile):
    cells = [e for e in page.of("td") if "data-key" in e]
    shown = {
        key: [e["data-value"] for e in cells if e["data-key"] == key]
        for key in ("verdict", "similarity", "alike", "flagged", "kind", "views")
    }
    assert shown["verdict"] == hostile.verdict.values.tolist()
    assert shown["kind"] == hostile.kind.values.tolist()
    assert [int(v) for v in shown["views"]] == hostile.views.values.tolist()
    assert [int(v) for v in shown["flagged"]] == hostile.flagged.sum("detector").values.tolist()
    mean = hostile.similarity.mean("seed").fillna(-2)
    np.testing.assert_allclose([float(v) for v in shown["similarity"]], mean)
    slides = [json.loads(e["text"]) for e in page.of("script")[:-1]]
    for prompt, each in enumerate(slides):
        mass = hostile.mass.isel(prompt=prompt).mean("layer")
        np.testing.assert_allclose(each["mass"], mass, atol=1e-4)


def test_every_figure_of_the_page_is_there_as_png_and_pdf(hostile, tmp_path):
    two = hostile.isel(prompt=[0, 8])
    page = Page(report.render(two, tmp_path).read_text(encoding="utf-8"))
    drawings = [e for e in page.of("svg") if "aria-label" in e and "score" not in e["aria-label"]]
    for ending in ("png", "pdf"):
        files = {file.stem for file in (tmp_path / "figures").glob(f"*.{ending}")}
        assert len(files) == len(drawings) == 6
    assert {"summary", "where", "prompt-01-steps", "prompt-02-layers"} <= files


def test_no_word_or_interval_of_the_summary_is_cut_off():
    worst = {"role": MITIGATION, "copies": 1.0, "kept": (0.0, -0.2, 0.2)}
    found = find(dataset())
    shown = [said for said in EDITS.values() if "replaced" not in said]
    effects = tuple(replace(found.effects[0], label=said, **worst) for said in shown)
    figure = figures.summary(replace(found, effects=effects), 0.5)
    figure.draw_without_rendering()
    ax, edge = figure.axes[0], figure.bbox.padded(1)
    for text in (ax.xaxis.label, *ax.texts):
        box = text.get_window_extent()
        assert edge.contains(box.x0, box.y0), text.get_text()
        assert edge.contains(box.x1, box.y1), text.get_text()
    ends = np.concatenate([line.get_xdata() for line in ax.lines])
    assert ax.get_xlim()[0] <= ends.min()
    assert ends.max() <= ax.get_xlim()[1]


@pytest.mark.parametrize("axis", ["step", "layer"])
def test_the_key_of_a_prompts_attention_is_not_cut_off(axis):
    figure = figures.attention(dataset(), 0, axis)
    figure.draw_without_rendering()
    key = figure.legends[0].get_window_extent()
    assert len(figure.legends[0].get_texts()) == 4
    assert figure.bbox.x0 <= key.x0
    assert key.x1 <= figure.bbox.x1


def test_the_answer_is_the_truth_that_was_put_in():
    data = dataset()
    found = find(data)
    assert (found.total, found.memorized) == (16, 8)
    assert found.listed == {"memorized": (8, 8), "control": (0, 8)}
    assert found.driver == "pad"
    assert found.shares["pad"] > 0.9
    np.testing.assert_allclose(sum(found.shares.values()), 1)
    assert found.best.copies == 0
    pads = 8 * 5 + 0.1 * (25 * 7 - 8)  # as put in: 8 strong cells of 25 steps and 7 layers
    assert (found.place.layer, found.place.third) == ("up.0.1", "first")
    assert found.place.in_layer == pytest.approx((8 * 5 + 0.1 * 17) / pads)
    assert found.place.in_third == pytest.approx((8 * 5 + 0.1 * (9 * 7 - 8)) / pads)
    assert {e.name for e in found.effects if e.copies == 1} == {
        "none", "c", "f", "zero prompt and eot", "random token addition (RTA)",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("copied", "said"),
    [
        (0, "It goes away with this change"),
        (2, "It becomes rarer, but does not go away,"),
        (8, "None of the mitigations tried makes it go away"),
    ],
)
def test_the_page_says_no_more_than_the_best_mitigation_did(copied, said):
    data = dataset()
    edits = np.flatnonzero(data.role == "mitigation")
    kept = data.kept.values.copy()
    kept[:8, edits], kept[:copied, edits] = 0.1, 0.9
    data["kept"] = (data.kept.dims, kept)
    page = html(data, defaultdict(Markup))
    lead = page.partition('class="lead"')[2].partition("</p>")[0]
    assert [text for text in ("It goes away", "It becomes rarer", "None of the") if text in lead]
    assert said in lead


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (0.256, 2, "0.26"), (-0.001, 2, "0.00"), (0.0002, 2, "0.00"), (0.0002, 3, "0.0002"),
        (0.0051, 4, "0.0051"), (12500.0, 2, "1.25e+04"), (float("nan"), 2, "–"), (None, 2, "–"),
    ],
)  # fmt: skip
def test_numbers_are_short(value, digits, shown):
    assert number(value, digits) == shown


def test_verdicts_follow_the_rule():
    data = dataset().isel(prompt=[0, 1, 2, 3, 7, 7, 7, *range(8, 16)])
    data = data.assign_coords(prompt=range(data.sizes["prompt"]))
    close, far = 0.9, 0.1
    seeds = [[close] * 4, [close, close, far, far], [close, far, far, far], [far] * 4]
    data["similarity"][:4] = seeds
    data["alike"][3:7] = [far, close, close, far]
    data["score"][4] = 9.0
    data["score"][5:7] = 0.0
    verdict = assess(data, THRESHOLD).verdict.values.tolist()
    known = ["memorized", "memorized", "unclear", "not memorized"]
    assert verdict[:7] == [*known, "memorized", "unclear", "not memorized"]


def test_seeds_that_agree_on_another_image_leave_the_verdict_open():
    data = dataset()
    data["similarity"][3], data["alike"][3] = 0.1, 0.99
    data = assess(data, THRESHOLD)
    assert data.verdict.values[3] == "unclear"
    said = reasons(data.isel(prompt=3), THRESHOLD)
    assert said[0].startswith("0 of 4 images")
    assert any("perhaps another prompt's" in sentence for sentence in said)
    assert not any("perhaps" in one for one in reasons(data.isel(prompt=0), THRESHOLD))


def test_without_controls_nothing_is_flagged():
    data = assess(dataset().isel(prompt=slice(0, 8)), THRESHOLD)
    assert not bool(data.flagged.any())
    assert bool(data.detector_threshold.isnull().all())
    assert data.verdict.values[7] == "unclear"


def test_a_calibration_sets_the_levels_and_the_page_says_so(tmp_path):
    data = dataset()
    levels = dict.fromkeys(detect.DETECTORS, 5.0)
    high = assess(data, THRESHOLD, levels)
    assert not bool(high.flagged.any())
    assert high.verdict.values[7] == "unclear"
    low = assess(data, THRESHOLD, dict.fromkeys(detect.DETECTORS, 2.0))
    assert low.flagged.all("detector").values.tolist() == [True] * 8 + [False] * 8
    assert low.verdict.values[7] == "memorized"
    facts = {"fpr": 0.01, "controls": 240, "of_controls": {"memorized": 0.004}}
    told = results.stamp(low.isel(prompt=[0, 8]), calibration=facts)
    page = report.render(told, tmp_path, figures=False).read_text(encoding="utf-8")
    assert "of 240 prompts known not to be memorized are above any of them" in page


def command(*arguments):
    """Run `interp`, which ends as programs do."""
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert not end.value.code


@pytest.mark.slow
def test_drawn_again_from_the_dataset_without_a_model(tmp_path, monkeypatch, capsys):
    from tests.pipelines import pipeline

    pipeline("sd1").save_pretrained(tmp_path / "model")
    for name, text in (("memorized", HOSTILE[0]), ("controls", "a cow")):
        (tmp_path / f"{name}.txt").write_text(text)
    options = {
        "model": tmp_path / "model", "prompts": tmp_path / "memorized.txt",
        "controls": tmp_path / "controls.txt", "out": tmp_path / "one", "steps": 3, "seeds": 2,
    }  # fmt: skip
    command("report", *(str(part) for k, v in options.items() for part in (f"--{k}", v)))
    plain = xr.open_dataset(tmp_path / "one" / "report.nc")
    assert plain.text.values.tolist() == [HOSTILE[0], "a cow"]
    assert results.provenance(plain)["command"].startswith("interp report --model")

    def no_model(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(ip, "load", no_model)
    command("report", "--from", str(tmp_path / "one" / "report.nc"), "--out", str(tmp_path / "two"))
    one, two = ((tmp_path / name / "report.html").read_bytes() for name in ("one", "two"))
    assert one == two
    first, second = (sorted((tmp_path / n / "figures").iterdir()) for n in ("one", "two"))
    assert [file.name for file in first] == [file.name for file in second]


def test_another_dataset_is_refused():
    with pytest.raises(ip.InterpError, match="It has no verdict"):
        report.render(xr.Dataset(), "nowhere")
