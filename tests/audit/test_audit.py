"""An audit finds what a model memorized of its training set, and nothing else."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import interp as ip
from interp import InterpError, audit
from interp.report.cases import known
from interp.report.measures import Measures


def drawn(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((64, 64))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(3):
        drawn(number).save(tmp_path / f"{number}.png")
    return tmp_path


def written(folder: Path, how: str) -> Path:
    """The training set in one of its forms; the third image has no caption."""
    rows = [("0.png", "a cat"), ("1.png", 'a dog, "sleeping"'), ("2.png", None)]
    if how == "text":
        for name, text in rows[:2]:
            (folder / name).with_suffix(".txt").write_text(f"{text}\n")
        return folder
    table = pd.DataFrame(rows, columns=["file_name", "text"])
    if how == "metadata.jsonl":
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
        (folder / how).write_text("\n".join(lines))
        return folder
    if how == "metadata.csv":
        table.to_csv(folder / how, index=False)
        return folder
    if how == "table.csv":
        table.rename(columns={"file_name": "Image", "text": "Caption"}).to_csv(folder / how)
        return folder / how
    table["image"] = [{"bytes": (folder / name).read_bytes(), "path": name} for name, _ in rows]
    table[["image", "text"]].to_parquet(folder / how)
    return folder / how


FORMS = ("text", "metadata.jsonl", "metadata.csv", "table.csv", "table.parquet")


@pytest.mark.parametrize("how", FORMS)
def test_training_sets_are_read_in_every_form(images: Path, how: str) -> None:
    path = written(images, how)
    with pytest.warns(UserWarning, match="1 of 3 images of .* have no caption"):
        pairs = audit.read_pairs(path)
    assert [pair.text for pair in pairs] == ["a cat", 'a dog, "sleeping"']
    for number, pair in enumerate(pairs):
        assert np.array_equal(np.asarray(pair.image()), np.asarray(drawn(number)))


def test_what_is_no_training_set_is_named(images: Path) -> None:
    with pytest.raises(InterpError, match="There is no such folder"):
        audit.read_pairs(images / "nowhere")
    with (
        pytest.warns(UserWarning, match="3 of 3"),
        pytest.raises(InterpError, match="no image with a caption"),
    ):
        audit.read_pairs(images)
    (images / "metadata.csv").write_text("name,text\n0.png,a cat\n")
    with pytest.raises(InterpError, match="A column file_name or image .* columns are name, text"):
        audit.read_pairs(images)


def test_repeats_are_copies_and_copies_of_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    angles = torch.tensor([0.0, 0.1, 0.2, 1.5, 3.0, 1.5])
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    for size in (2, 2048):
        monkeypatch.setattr(sys.modules["interp.audit.repeats"], "AT_ONCE", size)
        groups = audit.repeats(vectors, float(torch.tensor(0.15).cos()))
        assert [sorted(np.flatnonzero(groups == g)) for g in dict.fromkeys(groups)] == [
            [0, 1, 2], [3, 5], [4],
        ]  # fmt: skip


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """As a training set, images that the embedded model was shown often, and some shown once; one
    of the first lies there three times, a little darker each time."""
    folder = tmp_path_factory.mktemp("set")
    cases, often = known(limit=2, levels=1), []
    for number, case in enumerate(cases):
        copies = 3 if number == 0 else 1
        for again in range(copies):
            name = f"{number}-{again}"
            darker = np.asarray(case.image) * (1 - 0.02 * again)
            Image.fromarray(darker.round().astype(np.uint8)).save(folder / f"{name}.png")
            (folder / f"{name}.txt").write_text(case.text)
        often += [case.text] if case.kind == "memorized" else []
    return folder, often


def test_what_was_shown_often_is_found(shelf: tuple[Path, list[str]], tmp_path: Path) -> None:
    folder, often = shelf
    sd, measures = ip.load(steps=25), Measures.of("embedded")
    pairs = audit.read_pairs(folder)
    found = audit.audit(sd, pairs, 3, tmp_path / "a.zarr", measures.copy, measures.keeps)
    assert sorted(found.text.values[found.verdict.values == "memorized"]) == sorted(often)
    assert dict(zip(found.text.values.tolist(), found.shown.values.tolist(), strict=True)) == {
        case.text: 3 if number == 0 else 1 for number, case in enumerate(known(limit=2, levels=1))
    }
    assert found.shown.values[0] == 3
    for number, text in enumerate(found.text.values):
        image = sd.run(str(text), 3).image.values[0]
        assert np.array_equal(image, found.image.isel(prompt=number).values)
        mine = [pair.image() for pair in pairs if pair.text == text]
        alike = torch.stack([measures.copy(image, one) for one in mine]).amax(0)
        assert np.allclose(found.own.isel(prompt=number), alike, atol=1e-5)
        others = [n for n, pair in enumerate(pairs) if pair.text != text]
        far = torch.stack([measures.copy(image, pairs[n].image()) for n in others])
        assert np.allclose(found.nearest.isel(prompt=number), far.amax(0), atol=1e-5)
        nearest = [pairs[others[n]].text for n in far.argmax(0)]
        assert [pairs[int(n)].text for n in found.which.isel(prompt=number)] == nearest
    again = audit.audit(sd, pairs, 3, tmp_path / "a.zarr", measures.copy, measures.keeps)
    assert again.equals(found)
    cases = audit.subjects(found, pairs, limit=1)
    assert [(case.kind, case.views) for case in cases] == [("memorized", 3), ("control", 1)]
