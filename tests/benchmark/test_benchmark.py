"""The field's benchmark: its tables against plain numpy, and nothing of the field left out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image
from sklearn.metrics import roc_auc_score

import interp as ip
from interp import detect, plot
from interp.benchmark import detectors, mitigations, outcomes, rates
from interp.cli import main
from interp.errors import InterpError
from interp.metrics import SSIM
from interp.mitigations.registry import MITIGATIONS
from interp.patch import Patch
from interp.report.cases import Case
from interp.session import Rewrite, Session
from tests.pipelines import pipeline

TEXTS = {
    "memorized": ["a goat", "a red cow", "a horse in Berlin"],
    "control": ["a pig", "a cat in the park"],
}
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
CASES = [
    Case(text, kind, text, PICTURE, 64 if kind == "memorized" and n else 3)
    for kind, texts in TEXTS.items()
    for n, text in enumerate(texts)
]
CHEAP = {name: detect.METHODS[name] for name in ("guidance norm", "sharpness", "clique size")}


@pytest.fixture
def sd(sd1):
    return Session(sd1, steps=3)


def test_scores_are_those_of_each_prompt_alone_and_survive_a_kill(sd, tmp_path, monkeypatch):
    examined = detect.examine
    calls = []

    def counted(case, methods):
        calls.append(case.prompt.text)
        if len(calls) == 2 * len(CHEAP) + 2:
            raise KeyboardInterrupt
        return examined(case, methods)

    monkeypatch.setattr(detect, "examine", counted)
    with pytest.raises(KeyboardInterrupt):
        detectors(sd, CASES, 2, tmp_path / "s.zarr", CHEAP)
    calls.clear()
    monkeypatch.setattr(detect, "examine", lambda c, m: (calls.append(1), examined(c, m))[1])
    found = detectors(sd, CASES, 2, tmp_path / "s.zarr", CHEAP)
    assert len(calls) == (len(CASES) - 2) * len(CHEAP), "finished prompts are made once"
    for n, case in enumerate(CASES):
        alone = examined(detect.Case(sd, case.text, 2), CHEAP)
        for name in CHEAP:
            got = found.score.sel(detector=name).isel(prompt=n)
            np.testing.assert_allclose(got, alone[name].broadcast_like(got), rtol=1e-4)
    assert bool((found.seconds > 0).all())
    assert bool((found.run_seconds > 0).all())
    assert found.rows.sel(detector="guidance norm") == 6
    with pytest.raises(InterpError, match="other settings"):
        detectors(Session(sd.pipe, steps=4), CASES, 2, tmp_path / "s.zarr", CHEAP)


def test_rates_are_those_of_scikit_learn_at_every_level():
    draw = np.random.default_rng(0)
    kinds = np.repeat(["memorized", "control", "held_out"], 6)
    views = np.array([1, 1, 8, 8, 8, 8] + [1] * 6 + [0] * 6)
    scores = xr.Dataset(
        {"score": (("detector", "prompt", "seed"), draw.normal(size=(2, 18, 2))),
         "seconds": (("detector", "prompt"), np.full((2, 18), 4.0)),
         "run_seconds": ("prompt", np.full(18, 10.0))},
        {"detector": ["guidance norm", "sharpness"], "rows": ("detector", [100, 8]),
         "kind": ("prompt", kinds), "views": ("prompt", views),
         "group": ("prompt", [str(n) for n in range(18)])},
    )  # fmt: skip
    table = rates(scores)
    assert set(table.views) == {"all", "1", "8"}
    assert set(table.against) == {"control", "held_out"}
    assert len(table) == 2 * 2 * 3
    for row in table.itertuples():
        mine = (kinds == "memorized") & ((views == int(row.views)) if row.views != "all" else True)
        values = scores.score.sel(detector=row.detector).values
        both = [values[mine].ravel(), values[kinds == row.against].ravel()]
        truth = np.repeat([1, 0], [len(side) for side in both])
        np.testing.assert_allclose(row.auc, roc_auc_score(truth, np.concatenate(both)))
        assert row.auc_low <= row.auc <= row.auc_high
    # A detector that reads a run costs that run too, one that does not only its own time.
    seconds = table.groupby("detector").seconds.first()
    assert seconds.to_dict() == {"guidance norm": 7.0, "sharpness": 2.0}


def test_outcomes_are_means_of_the_sweep():
    draw = np.random.default_rng(1)
    kinds = np.repeat(["memorized", "control"], 5)
    similarity = draw.uniform(size=(3, 10, 2, 2))
    similarity[..., 4, :, 1] = np.nan  # a memorized prompt whose training image is not known
    grid = xr.Dataset(
        {"copy": (("patch", "prompt", "seed", "reference"), similarity),
         "clipscore": (("patch", "prompt", "seed"), draw.uniform(size=(3, 10, 2))),
         "alike": (("patch", "prompt"), draw.uniform(size=(3, 10)))},
        {"patch": ["none", "repad '!'", "mine"], "reference": ["baseline", "training"],
         "kind": ("prompt", kinds), "group": ("prompt", [str(n) for n in range(10)])},
    )  # fmt: skip
    table = outcomes(grid, 0.5, steps_rows=100).set_index("mitigation")
    at = list(grid.patch.values).index("mine")
    known = np.where(np.isnan(similarity[at, :5, :, 1]), similarity[at, :5, :, 0],
                     similarity[at, :5, :, 1])  # fmt: skip
    row = table.loc["mine"]
    np.testing.assert_allclose(row.similarity, known.mean())
    np.testing.assert_allclose(row.copies, (known >= 0.5).mean())
    np.testing.assert_allclose(row.kept, similarity[at, 5:, :, 0].mean())
    change = grid.clipscore.values[at, 5:] - grid.clipscore.values[0, 5:]
    np.testing.assert_allclose(row.fidelity, change.mean())
    assert table.fidelity["none"] == 0
    assert table.rows.to_dict() == {"none": 100, "repad '!'": 100, "mine": 100}
    assert table.source["repad '!'"] == "Kim & No 2026"


def test_the_frontier_joins_what_nothing_beats():
    rows = {"good": (0.1, -0.1), "better": (0.1, 0.0), "gentle": (0.6, 0.2), "worst": (0.9, -0.3)}
    ends = {"copies_low": 0.0, "copies_high": 1.0, "fidelity_low": -0.5, "fidelity_high": 0.5}
    table = pd.DataFrame(
        [{"mitigation": n, "copies": c, "fidelity": f, **ends} for n, (c, f) in rows.items()]
    )
    figure = plot.frontier(table)
    line = figure.axes[0].lines[0]
    assert sorted(zip(line.get_xdata(), line.get_ydata(), strict=True)) == [(0.0, 0.1), (0.2, 0.6)]
    with pytest.raises(InterpError, match="no ordinary prompts"):
        plot.frontier(table.drop(columns="fidelity"))


def kind_of(edit):
    """What tells mitigations apart, whatever their settings."""
    if isinstance(edit, Patch):
        return tuple((type(o).__name__, o.categories) for o in edit.operations)
    return type(edit).__name__


def test_no_public_mitigation_is_missing_from_the_table(sd):
    made = {name: method.make(sd) for name, method in MITIGATIONS.items()}
    assert all(isinstance(edit, Patch | Rewrite) for edit in made.values())
    functions = [getattr(ip.mitigations, n) for n in ip.mitigations.__all__ if n.islower()]
    missing = {kind_of(make()) for make in functions} - {kind_of(e) for e in made.values()}
    assert not missing
    assert len({edit.to_json() for edit in made.values()}) == len(made), "no row is there twice"


def test_rows_count_what_is_asked_of_the_denoiser(sd):
    """The cost beside the run, counted by a hook, forward passes alone."""
    calls = []
    hook = sd.pipe.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    prompt, usual = sd.encode("a goat"), {}
    try:
        for name, method in MITIGATIONS.items():
            edit = method.make(sd)
            if isinstance(edit, Rewrite) and method.rows:
                if hasattr(edit, "target"):
                    edit = replace(edit, target=0.0)
                calls.clear()
                edit.rewrite(sd, prompt, [0])
                usual[name] = sum(calls)
    finally:
        hook.remove()
    for name, forward in usual.items():
        backward = "gradients" in MITIGATIONS[name].needs
        low, high = (2, 4) if backward else (1, 1)
        assert low * forward / 2 <= MITIGATIONS[name].rows <= high * forward, (name, forward)


@pytest.mark.slow
def test_the_command_makes_both_tables_and_figures(tmp_path):
    pipeline("sd1").save_pretrained(tmp_path / "model")
    for kind, texts in TEXTS.items():
        (tmp_path / f"{kind}.txt").write_text(texts[0])
    with pytest.raises(SystemExit) as end:
        main(["benchmark", "--quick", "--model", str(tmp_path / "model"), "--out",
              str(tmp_path / "out"), "--prompts", str(tmp_path / "memorized.txt"),
              "--controls", str(tmp_path / "control.txt")])  # fmt: skip
    assert end.value.code == 0
    table = pd.read_csv(tmp_path / "out" / "detectors.csv")
    needy = {n for n, m in detect.METHODS.items() if {"controls", "training image"} & set(m.needs)}
    assert set(table.detector) == set(detect.METHODS) - needy
    table = pd.read_csv(tmp_path / "out" / "mitigations.csv")
    assert set(table.mitigation) == {"none", *MITIGATIONS}
    for name in ("detectors", "frontier"):
        assert (tmp_path / "out" / "figures" / f"{name}.pdf").is_file()


def test_mitigations_are_a_sweep(sd, tmp_path):
    few = {name: MITIGATIONS[name] for name in ("zero pad 70 %", "static transition")}
    grid = mitigations(sd, CASES[2:4], 1, tmp_path / "e.zarr", SSIM(), methods=few)
    direct = sd.run(CASES[2].text, patch=ip.mitigations.zero_pads(0.7)).image
    swept = grid.image.sel(patch="zero pad 70 %").isel(prompt=0)
    np.testing.assert_allclose(swept.astype(int).squeeze(), direct.astype(int).squeeze(), atol=1)
