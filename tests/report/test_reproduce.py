"""Reproducing a paper: what is asked, what it costs, and its tables against plain numpy."""

import time

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from sklearn.metrics import roc_auc_score

import interp as ip
from interp import detect
from interp.cli import main
from interp.errors import InterpError
from interp.report import cost as costs
from interp.report import presets
from interp.report.cases import Case
from interp.report.reproduce import agreement, edits, of_detectors, of_edits
from interp.report.scanned import scanned
from interp.session import Session
from tests.pipelines import pipeline

CASES = [
    Case(text, kind, f"{kind} {n // 2}")
    for kind, texts in {
        "memorized": ["a goat", "the same goat", "a red cow"],
        "control": ["a pig in the park", "a horse", "a cat"],
    }.items()
    for n, text in enumerate(texts)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of random weights with the files that a user would have."""
    where = tmp_path_factory.mktemp("reproduce")
    pipeline("sd1").save_pretrained(where / "model")
    for kind in ("memorized", "control"):
        lines = [case.text for case in CASES if case.kind == kind]
        (where / f"{kind}.txt").write_text("\n".join(lines))
    return where


@pytest.mark.parametrize("name", presets.names())
def test_every_value_of_a_preset_has_a_source(name):
    facts = presets.preset(name).facts
    tables = [facts["model"], facts["seeds"], facts["sampling"], *facts["prompts"].values()]
    tables += [facts[key] for key in ("descriptor", "clip") if key in facts]
    tables += list(facts.get("detectors", {}).values())
    assert all(table["source"] for table in tables)
    assert facts["figures_from"]


def test_the_papers_setting_is_that_of_its_figures():
    kim_no, setting = presets.preset("kim-no"), ip.paper.results()["setting"]
    assert list(kim_no.seeds) == setting["seeds"]
    assert kim_no.facts["prompts"]["memorized"]["count"] == setting["prompts"]
    assert kim_no.facts["model"]["value"] == setting["model"]
    assert kim_no.facts["descriptor"]["preprocess"] in setting["measures"]["sscd"]
    assert set(edits()) == set(ip.paper.published())


def test_unknown_and_broken_presets_say_what_there_is(tmp_path, monkeypatch):
    with pytest.raises(InterpError, match="presets for bright-ending, kim-no, ren, wen"):
        presets.preset("kim")
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "mine.toml").write_text("name = 'mine'\n")
    monkeypatch.setenv("INTERP_DATA", str(tmp_path))
    with pytest.raises(InterpError, match=r"malformed \(KeyError"):
        presets.preset("mine")


def test_costs_are_counted_and_timed(sd1):
    sd = Session(sd1, steps=50)
    calls = []

    def slowly(*_):
        calls.append(1)
        time.sleep(0.05)

    handle = sd1.unet.register_forward_pre_hook(slowly)
    tried = {"h": ip.zero("pad"), "w": ip.mitigations.optimise_embedding()}
    try:
        found = costs.cost(sd, 10, 4, tried)
    finally:
        handle.remove()
    one = 3 * 50 * 2 + 10 * 2 * 3
    assert (found.images, found.rows) == (120, 40 * one)
    assert len(calls) == 1 + 2 + 4
    # A call of two rows takes 50 ms and a little: so many rows, at least so long.
    assert found.hours >= 40 * one / 2 * 0.05 / 3600 * 0.8
    assert found.gigabytes == 120 * 3 * sd.height * sd.width / 1e9


def test_edits_beside_the_papers_figures_are_means_of_the_sweep():
    draw = np.random.default_rng(0)
    names = ["none", *edits()]
    kinds = np.array([case.kind for case in CASES])
    values = xr.DataArray(
        draw.uniform(size=(len(names), len(CASES), 2)),
        dims=("patch", "prompt", "seed"),
        coords={"patch": names, "kind": ("prompt", kinds),
                "group": ("prompt", [case.group for case in CASES])},
    )  # fmt: skip
    table = of_edits(values.to_dataset(name="copy"), {"copy": values}, presets.preset("kim-no"))
    h = table[(table.name == "h") & (table.kind == "memorized")].iloc[0]
    assert h.paper == 0.07
    np.testing.assert_allclose(h.ours, values.sel(patch="h")[kinds == "memorized"].mean())
    np.testing.assert_allclose(h.difference, h.ours - 0.07)
    assert h.inside == (h.low <= 0.07 <= h.high)
    assert table[table.kind == "control"].paper.isna().all()
    known = [n for n in names if ip.paper.published().get(n) is not None]
    found = agreement(table)["copy"]
    assert found["figures"] == len(known)
    assert found["inside"] == table.inside.fillna(False).astype(bool).sum()
    ranks = [pd.Series(v).rank() for v in (
        [float(values.sel(patch=n)[kinds == "memorized"].mean()) for n in known],
        [ip.paper.published()[n] for n in known],
    )]  # fmt: skip
    np.testing.assert_allclose(found["spearman"], np.corrcoef(*ranks)[0, 1])


def test_scores_in_a_store_are_those_of_a_scan_and_survive_a_kill(sd1, tmp_path, monkeypatch):
    sd = Session(sd1, steps=3)
    store = tmp_path / "scores.zarr"
    made = []
    traced = Session.trace

    def counted(self, prompt, *args, **kwargs):
        if len(made) == 3:
            raise KeyboardInterrupt
        made.append(prompt)
        return traced(self, prompt, *args, **kwargs)

    monkeypatch.setattr(Session, "trace", counted)
    with pytest.raises(KeyboardInterrupt):
        scanned(sd, CASES, 2, store)
    made.clear()
    made_before = 3
    monkeypatch.setattr(Session, "trace", lambda *a, **k: (made.append(1), traced(*a, **k))[1])
    found = scanned(sd, CASES, 2, store)
    assert len(made) == len(CASES) - made_before
    monkeypatch.setattr(Session, "trace", traced)
    direct = detect.scan(sd, [case.text for case in CASES], 2)
    for name in direct.data_vars:
        np.testing.assert_allclose(found.sel(detector=name), direct[name], rtol=1e-4)
    with pytest.raises(InterpError, match="other settings"):
        scanned(Session(sd1, steps=4), CASES, 2, store)
    norms = found.sel(detector="guidance norm")
    curve = detect.roc(norms[:3], norms[3:])
    table = of_detectors({"guidance norm": curve}, presets.preset("wen"))
    area = table[table.measure == "auc"].iloc[0]
    flat = direct["guidance norm"].values
    truth = np.repeat([1, 1, 1, 0, 0, 0], 2)
    np.testing.assert_allclose(area.ours, roc_auc_score(truth, flat.ravel()))
    assert area.paper == 0.994


def run(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["reproduce", *map(str, arguments)])
    assert end.value.code == 0


@pytest.mark.slow
def test_a_paper_runs_from_the_command_line(folder, capsys):
    """All of it, on a model of random weights, with the paper's files replaced by small ones."""
    args = ["--model", str(folder / "model"), "--prompts", str(folder / "memorized.txt"),
            "--controls", str(folder / "control.txt"), "--steps", "3", "--seeds", "2"]  # fmt: skip
    run("wen", *args, "--out", folder / "wen")
    said = capsys.readouterr().out
    assert "3 of 500 memorized prompts, 2 of 4 seeds, 3 steps instead of 50, float32" in said
    assert "12 images, 72 UNet rows" in said
    written = (folder / "wen" / "reproduced.md").read_text()
    assert "guidance norm, first step" in written
    assert (folder / "wen" / "figures" / "reproduced.pdf").is_file()
    run("kim-no", "--plan", "--limit", 1)
    assert "the embedded model, its prompts, descriptor and CLIP model" in capsys.readouterr().out


def test_what_is_missing_is_listed_before_anything_is_loaded(folder):
    with pytest.raises(InterpError) as error:
        main(["--debug", "reproduce", "kim-no", "--model", str(folder / "nothing")])
    for what in ("extended_mv_458_sd1.csv", "non_mem_1500.csv", "sscd_disc_large.torchscript.pt"):
        assert what in str(error.value)


def test_the_sampler_is_the_papers(folder):
    sd = ip.load(folder / "model", scheduler="EulerDiscrete")
    assert type(sd.pipe.scheduler).__name__ == "EulerDiscreteScheduler"
    with pytest.raises(InterpError, match="diffusers .* has .*DDIM"):
        ip.load(folder / "model", scheduler="DDIMM")
