"""The field's benchmark: its tables against plain numpy, and nothing of the field left out."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image
from sklearn.metrics import roc_auc_score

import interp as ip
from interp import detect, plot
from interp.benchmark import (
    MITIGATIONS,
    Known,
    detectors,
    made,
    mitigations,
    outcomes,
    rates,
    retrigger,
    retriggered,
)
from interp.benchmark.causal_pads import causal_pads, largest, placed
from interp.benchmark.protocol import benchmark, reworded, set_apart
from interp.benchmark.retrigger import encoded_before
from interp.benchmark.tables import page
from interp.cli import main
from interp.errors import InterpError
from interp.metrics import SSIM
from interp.patch import Patch
from interp.report.cases import Case
from interp.report.measures import Measures
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
    table = outcomes(grid, 0.5, steps=50).set_index("mitigation")
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
    gain = grid.clipscore.values[at, :5] - grid.clipscore.values[0, :5]
    np.testing.assert_allclose(row.freed, gain[known < 0.5].mean())
    assert "top" not in table, "three images are more than there are"
    assert table.rows.to_dict() == {"none": 100, "repad '!'": 100, "mine": 100}
    assert table.source["repad '!'"] == "Kim & No 2026"


def test_membench_averages_the_three_most_similar_images_of_each_prompt():
    similarity = np.random.default_rng(2).uniform(size=(1, 4, 5, 2))
    grid = xr.Dataset(
        {"copy": (("patch", "prompt", "seed", "reference"), similarity)},
        {"patch": ["none"], "reference": ["baseline", "training"],
         "kind": ("prompt", ["memorized"] * 4)},
    )  # fmt: skip
    best = np.sort(similarity[0, ..., 1], axis=1)[:, -3:]
    np.testing.assert_allclose(outcomes(grid, 0.5, 50).top[0], best.mean())


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


def known_of(sd, **more):
    """Two ordinary and two memorized prompts, apart from those that judge."""
    return Known(sd, ("a pig", "a cat in the park"), tuple(CASES[:2]), SSIM(), **more)


def kind_of(edit):
    """What tells mitigations apart, whatever their settings."""
    if isinstance(edit, Patch):
        return tuple((type(o).__name__, o.categories) for o in edit.operations)
    return type(edit).__name__


def test_no_public_mitigation_is_missing_from_the_table(sd):
    edits = made(known_of(sd), MITIGATIONS)
    assert list(edits) == list(MITIGATIONS)
    assert all(isinstance(edit, Patch | Rewrite) for edit in edits.values())
    functions = [getattr(ip.mitigations, n) for n in ip.mitigations.__all__ if n.islower()]
    fitted = {ip.mitigations.stable_steps, ip.mitigations.usual_steps}
    missing = {kind_of(make()) for make in functions if make not in fitted}
    assert not missing - {kind_of(e) for e in edits.values()}
    assert type(edits["usual steps"]).__name__ == "StableSteps"
    assert len({edit.to_json() for edit in edits.values()}) == len(edits), "no row is there twice"
    bare = made(Known(sd), MITIGATIONS)
    assert set(edits) - set(bare) == {"causal pads", "silenced neurons", "usual steps"}


def test_rows_count_what_is_asked_of_the_denoiser(sd):
    """The cost beside the run, counted by a hook, forward passes alone."""
    calls = []
    hook = sd.pipe.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    prompt, usual = sd.encode("Classic Orchard Area Rug by Tom Meyer"), {}
    try:
        for name, edit in made(Known(sd), MITIGATIONS).items():
            if isinstance(edit, Rewrite) and MITIGATIONS[name].rows:
                if hasattr(edit, "target"):
                    edit = replace(edit, target=0.0)
                if hasattr(edit, "enough"):
                    edit = replace(edit, low=0.0, high=1e-9, enough=0.0)
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
    needy = {n for n, m in MITIGATIONS.items() if any(n.endswith("prompts") for n in m.needs)}
    assert set(table.mitigation) == {"none", *MITIGATIONS} - needy
    assert (table.seconds > 0).all()
    assert "# Mitigations" in (tmp_path / "out" / "benchmark.md").read_text()
    for name in ("detectors", "levels", "frontier"):
        assert (tmp_path / "out" / "figures" / f"{name}.pdf").is_file()


def test_mitigations_are_a_sweep(sd, tmp_path):
    few = {name: MITIGATIONS[name] for name in ("zero pad 70 %", "static transition")}
    edits = made(Known(sd), few)
    grid = mitigations(sd, CASES[2:4], 1, tmp_path / "e.zarr", SSIM(), edits)
    assert grid.seconds.dims == ("patch",)
    again = mitigations(sd, CASES[2:4], 1, tmp_path / "e.zarr", SSIM(), edits)
    assert np.array_equal(grid.seconds, again.seconds), "they are kept"
    direct = sd.run(CASES[2].text, patch=ip.mitigations.zero_pads(0.7)).image
    swept = grid.image.sel(patch="zero pad 70 %").isel(prompt=0)
    np.testing.assert_allclose(swept.astype(int).squeeze(), direct.astype(int).squeeze(), atol=1)


def test_causal_pads_are_placed_at_the_largest_cells():
    layers, effect = ["down.0.0", "mid.0", "up.0.0"], np.array([[0, 5.0], [0.1, -9], [4, 0.2]])
    cells = xr.DataArray(effect, {"layer": layers, "step": [0, 1]}, ("layer", "step"))
    assert largest(cells, 0.34) == {"down.0.0": (1,), "up.0.0": (0,)}
    assert largest(cells, 1) == dict.fromkeys(layers, (0, 1))
    two = placed(lambda **where: ip.mask("pad", **where), {"a": (0, 1), "b": (1,), "c": (0, 1)})
    assert two == ip.mask("pad", layers=("a", "c"), steps=(0, 1)) & ip.mask(
        "pad", layers=("b",), steps=(1,)
    )


class Changed(SSIM):
    """Likes a memorized prompt's image the less, the more it differs from one that it was shown."""

    def __init__(self, plain):
        super().__init__()
        self.plain, self.seen = plain, []

    def __call__(self, images, reference):
        if reference is not PICTURE:
            return super().__call__(images, images)
        self.seen.append(super().__call__(images, self.plain))
        return self.seen[-1]


def test_causal_pads_are_the_best_of_those_tried(sd, tmp_path):
    plain = sd.run(CASES[0].text, [1000]).image.isel(prompt=0, seed=0).values
    ordinary, judge = ["a pig", "a cat in the park"], Changed(plain)
    causal_pads(sd, CASES[:1], ordinary, judge, -2.0)
    lowest = min(map(float, judge.seen))
    assert len(judge.seen) == 8
    assert lowest < max(map(float, judge.seen))
    # Only the patch that changes the image most is below this: so it must be the one.
    found = causal_pads(sd, CASES[:1], ordinary, Changed(plain), lowest + 1e-6, tmp_path)
    image = sd.run(CASES[0].text, [1000], found).image.isel(prompt=0, seed=0).values
    assert float(SSIM()(image[None], plain)[0]) == pytest.approx(lowest, abs=1e-4)
    again = causal_pads(sd, CASES[:1], ordinary, None, 0.5, tmp_path)
    assert again == found, "it is kept"


def test_rewordings_change_memorized_prompts_alone():
    assert reworded(CASES[2], "reordered", []).text == "in Berlin a horse"
    assert reworded(CASES[2], "exchanged", ["the pig"]).text == "the horse in Berlin"
    assert reworded(CASES[2], "original", []) == CASES[2]
    assert reworded(CASES[4], "shortened", []) == CASES[4]
    held = [replace(CASES[3], text=str(n), kind="held_out", group=str(n)) for n in range(40)]
    judged, ordinary = set_apart([*CASES, *held])
    assert ordinary == [str(n) for n in range(32, 40)]
    assert judged == [*CASES, *held[:32]]


def test_the_page_has_every_method_with_its_interval():
    ends = {f"auc{end}": value for end, value in (("", 0.91), ("_low", 0.8), ("_high", 0.99))}
    ends |= {name.replace("auc", "tpr"): value / 2 for name, value in ends.items()}
    rows = pd.DataFrame(
        [{"detector": n, "against": "held_out", "views": "all", **ends, "rows": 8, "seconds": 0.5,
          "needs": "run"} for n in ("one", "two")]
    )  # fmt: skip
    done = {"copies": 0.25, "copies_low": float("nan"), "copies_high": float("nan")}
    table = pd.DataFrame([{"mitigation": "mine", "source": "", **done, "rows": 100, "needs": ""}])
    text = page(rows, table)
    assert "Against held-out prompts." in text
    assert text.count("| 0.91 [0.80, 0.99] | 0.46 [0.40, 0.49]") == 2
    assert "| mine     | 0.25" in text


def test_the_search_lowers_the_loss_of_the_training_image_under_the_patch(sd):
    """The loss measured by plain diffusers on zeroed embeddings, at every step of the run."""
    pipe, a = sd.pipe, sd.encode("a goat")
    size = (sd.width, sd.height)
    picture = PICTURE.resize(size)
    pixels = torch.from_numpy(np.asarray(picture)).float().permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        latent = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    pipe.scheduler.set_timesteps(sd.steps)

    def loss(embeds):
        embeds, total = embeds.clone(), 0.0
        embeds[a.e + 1 :] = 0
        for n, t in enumerate(pipe.scheduler.timesteps):
            noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(n))
            noisy = pipe.scheduler.add_noise(latent, noise, t[None])
            with torch.no_grad():
                eps = pipe.unet(noisy, t, encoder_hidden_states=embeds[None]).sample
            total += float((eps - noise).square().mean())
        return total

    found = retrigger(sd, a, picture, ip.zero("pad"), iterations=12)
    assert loss(found.embeds) < loss(a.embeds)
    assert torch.equal(found.embeds[a.e + 1 :], a.embeds[a.e + 1 :]), "nothing is learnt of zeros"
    with pytest.raises(InterpError, match="acts on two predictions"):
        retrigger(sd, a, picture, ip.guide(1))


def test_pads_encoded_before_are_those_encoded_on_the_way(sd):
    a = sd.encode("a goat")
    fixed = encoded_before(sd, a, ip.mitigations.repad_zero_eot())
    both = sd.run(a, patch={"before": fixed, "then": ip.mitigations.repad_zero_eot()}).image
    assert np.array_equal(both.sel(patch="before"), both.sel(patch="then"))
    edits = {"repad": ip.repad("!"), "guide": ip.guide(1), "words": ip.mitigations.random_tokens()}
    table = retriggered(sd, CASES[:2], edits, SSIM(), -2.0, 1, iterations=1)
    assert table.mitigation.tolist() == ["repad"]
    assert table.loc[0, ["before", "after"]].tolist() == [1.0, 1.0]


def test_the_protocol_judges_by_other_prompts_than_it_fits_on(sd, tmp_path):
    """Seven memorized prompts, of which the fourth is set apart, and eight ordinary ones."""
    memorized = [replace(CASES[0], text=f"a goat {n}", group=f"m{n}", views=8) for n in range(7)]
    ordinary = [
        Case(f"a pig {n}", "held_out", f"o{n}", None, 0) for n in range(8)
    ]  # fmt: skip
    measures = Measures(SSIM(), None, 0.5)
    few = {name: MITIGATIONS[name] for name in ("causal pads", "usual steps")}
    rates, outcome = benchmark(
        sd, [*memorized, *ordinary], measures, tmp_path, 1,
        scored={"guidance norm": detect.METHODS["guidance norm"]}, edits=few,
    )  # fmt: skip
    assert outcome.mitigation.tolist() == ["none", *few]
    assert rates.against.unique().tolist() == ["held_out"]
    grid = ip.open(tmp_path / "edits.zarr")
    assert "a goat 3" not in grid.text.values
    assert grid.sizes["prompt"] == 6 + 6
    assert (outcome.rows == 6).all()
