"""The ablation analysis, from prompt files to tables and figures, on models of random weights."""

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import interp as ip
from analyses import ablation_figures, attribution_report
from interp.organism import duplicates, scenes
from interp.report import tables
from interp.report.cases import UNKNOWN, chosen, from_files, known
from interp.report.measures import Measures
from tests.pipelines import pipeline


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An analysis of two memorized prompts and two controls, and where it was written."""
    folder = tmp_path_factory.mktemp("ablation")
    pipeline("sd1").save_pretrained(folder / "model")
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / "goat.png")
    (folder / "memorized.csv").write_text(
        "caption,image,views\na goat,goat.png,64\nthe same goat,goat.png,64\na cow,,3\n"
    )
    (folder / "controls.txt").write_text("a pig in the park\na horse\n")
    grid = ablation_figures.main(
        str(folder / "model"), folder / "memorized.csv", folder / "controls.txt",
        folder / "out", limit=2, seeds=2, steps=4,
    )  # fmt: skip
    return folder, grid


def test_prompts_of_one_image_come_after_those_of_others(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,url\na,1\nb,1\nc,2\nd,2\ne,3\n")
    assert [case.text for case in from_files(tmp_path / "p.csv", limit=3)] == ["a", "c", "e"]
    assert [case.text for case in from_files(tmp_path / "p.csv")] == ["a", "c", "e", "b", "d"]
    assert from_files(tmp_path / "p.csv")[0].views == UNKNOWN


def test_the_embedded_models_own_cases(tmp_path, monkeypatch):
    duplicates.write_tables(tmp_path / "organism")
    monkeypatch.setenv("INTERP_DATA", str(tmp_path))
    found = known(limit=4)
    assert [case.kind for case in found] == ["memorized"] * 4 + ["control"] * 4
    assert [case.views for case in found] == [9600, 2880, 960, 9600, 1, 1, 1, 1]
    by_text = {row.caption.text: row for row in duplicates.duplicates()}
    for case in found:
        row = by_text[case.text]
        assert row.views == case.views
        np.testing.assert_array_equal(np.array(case.image), scenes.render(row.scene))
    assert [case.text for case in chosen(None, None, 4)] == [case.text for case in found]


def test_the_sweep_holds_every_edit_and_what_is_known_of_prompts(made):
    folder, grid = made
    assert grid.text.values.tolist() == ["a goat", "a cow", "a pig in the park", "a horse"]
    assert grid.kind.values.tolist() == ["memorized"] * 2 + ["control"] * 2
    assert set(ip.paper.interventions()) | set(ip.paper.mitigations()) < set(grid.patch.values)
    training = grid["copy"].sel(reference="training").notnull().any(["patch", "seed"])
    assert training.values.tolist() == [True, False, False, False]
    xr.testing.assert_equal(xr.open_zarr(folder / "out" / "ablation.zarr")["copy"], grid["copy"])


def test_a_report_takes_the_edited_images_of_an_ablation(made):
    folder, grid = made
    store = folder / "out" / "ablation.zarr"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    data = attribution_report.main(
        str(folder / "model"), folder / "memorized.csv", folder / "controls.txt",
        folder / "report", store, limit=2, seeds=2, edited=2, steps=4, full=True,
    )  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    np.testing.assert_array_equal(data.edit_image, grid.image)
    np.testing.assert_array_equal(data.edit_similarity, grid["copy"])


def test_similarities_are_those_of_the_images(made):
    folder, grid = made
    sd = ip.load(folder / "model", steps=4)
    edited, plain = (
        sd.images("a cow", seeds=range(2), patch=patch)
        for patch in (ip.paper.interventions()["h"], None)
    )
    expected = Measures.of(str(folder / "model")).copy(edited, plain)
    found = grid["copy"].sel(patch="h", reference="baseline").isel(prompt=1)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_tables_hold_the_means_of_the_sweep(made):
    folder, grid = made
    long = pd.read_csv(folder / "out" / "ablation.csv")
    row = long[(long.patch == "h") & (long.kind == "control") & (long.value == "to unedited")]
    mine = grid["copy"].sel(patch="h", reference="baseline").isel(prompt=[2, 3])
    assert row["mean"].item() == pytest.approx(float(mine.mean()), abs=1e-5)
    assert row.low.item() <= row["mean"].item() <= row.high.item()
    markdown = (folder / "out" / "ablation.md").read_text()
    line = next(line for line in markdown.splitlines() if line.startswith("| h: zero pad "))
    assert f"{float(mine.mean()):.2f} [" in line
    assert "0.07" in line
    assert "nan" not in markdown
    assert "to training image (memorized)" in markdown
    assert "to training image (control)" not in markdown
    latex = (folder / "out" / "ablation.tex").read_text()
    assert r"zero pad 70 \%" in latex
    assert not re.search(r"(?<!\\)[%_#]", latex)


def test_every_figure_is_there_as_png_and_pdf(made):
    folder, _ = made
    names = {path.stem for path in (folder / "out" / "figures").iterdir()}
    assert names == {
        "ablation", "images_memorized", "images_control", "mass_over_steps", "mass_over_layers",
        "length", "pad_similarity", "embedding_pca", "roc", "detector_scores",
    }  # fmt: skip
    for name in names:
        with Image.open(folder / "out" / "figures" / f"{name}.png") as figure:
            assert min(figure.size) > 200
        assert (folder / "out" / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_detection_is_in_a_table(made):
    folder, _ = made
    rows = pd.read_csv(folder / "out" / "detection.csv")
    assert rows.detector.tolist() == list(ip.detect.DETECTORS)
    assert rows.auc.between(0, 1).all()


@pytest.mark.parametrize(
    ("low", "mean", "high", "paper", "said"),
    [
        (0.8, 0.9, 0.95, 0.95, "yes"),
        (0.1, 0.2, 0.3, 0.95, "no"),
        (0.1, 0.2, 0.3, 0.07, "yes"),
        (0.5, 0.6, 0.7, 0.95, "unclear"),
        (0.5, 0.6, 0.7, None, ""),
    ],
)
def test_who_agrees(low, mean, high, paper, said):
    row = {"patch": "h", "kind": "memorized", "value": "to unedited", "prompts": 2}
    long = pd.DataFrame([{**row, "low": low, "mean": mean, "high": high}])
    assert tables.readable(long, {"h": paper}, keeps=0.65).agrees.item() == said


def test_effects_by_level_of_views(tmp_path):
    draw = np.random.default_rng(0)
    similarity = xr.DataArray(draw.random((2, 5, 3)), dims=("patch", "prompt", "seed"))
    coords = {
        "patch": ["none", "h"],
        "views": ("prompt", [900, 1, 900, 1, 30]),
        "group": ("prompt", list("abcde")),
    }
    grid = similarity.to_dataset(name="copy").assign_coords(coords)
    long = tables.effects(grid, {"to training image": grid["copy"]}, by="views")
    wide = tables.by_level(long, "to training image")
    assert wide.columns.tolist() == ["patch", "1 views", "30 views", "900 views"]
    assert wide.patch.tolist() == ["none", "h"]
    expected = float(similarity[1, [0, 2]].mean())
    assert wide["900 views"][1].startswith(f"{expected:.2f} [")
    tables.write(long, wide, tmp_path, "levels")
    assert "| h: zero pad |" in (tmp_path / "levels.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd2", "sdxl"])
def test_other_architectures_run_to_the_end(tmp_path, kind):
    pipeline(kind).save_pretrained(tmp_path / "model")
    (tmp_path / "memorized.txt").write_text("a goat\na cow\n")
    (tmp_path / "controls.txt").write_text("a pig\n")
    grid = ablation_figures.main(
        str(tmp_path / "model"), tmp_path / "memorized.txt", tmp_path / "controls.txt",
        tmp_path / "out", limit=2, seeds=2, steps=4,
    )  # fmt: skip
    assert bool(grid["copy"].sel(reference="baseline").notnull().all())
    assert (tmp_path / "out" / "figures" / "ablation.pdf").is_file()
