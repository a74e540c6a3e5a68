"""The command finds, in a LoRA that was trained on ten scenes, the three that were repeated."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import interp as ip
from analyses.fine_tune import TIMES, train, training_set
from interp import InterpError
from interp.cli.audit import audit
from interp.report.measures import Measures


@pytest.mark.slow
def test_exactly_the_repeated_scenes_are_memorized(tmp_path: Path) -> None:
    folder, lora, out = tmp_path / "set", tmp_path / "lora.safetensors", tmp_path / "out"
    texts = training_set(folder)
    train(folder, lora)
    table = audit(data=folder, lora=lora, out=out, seeds=2, steps=12, examined=1)
    assert set(table.text) == set(texts)
    repeated = {text for text, times in zip(texts, TIMES, strict=True) if times > 1}
    assert set(table.text[table.verdict == "memorized"]) == repeated
    assert table.set_index("text").shown.to_dict() == dict(zip(texts, TIMES, strict=True))
    read = pd.read_csv(out / "audit.csv")
    assert read.text.tolist() == table.text.tolist()
    assert read.verdict.tolist() == table.verdict.tolist()
    curve = ip.open(out / "scales.nc")["copy"] >= Measures.of("embedded").keeps
    share = curve.mean(["prompt", "seed"]).values
    assert share[0] == 0
    assert share[-1] == 1
    for name in ("repetition", "scales"):
        assert (out / "figures" / f"{name}.png").stat().st_size > 10_000
    page = (out / "report.html").read_text(encoding="utf-8")
    assert table.text[0] in page
    data = ip.open(out / "report.nc")
    assert data.verdict.values[0] == "memorized"
    plain = ip.load(steps=12).run(table.text[0], 2).image.values
    assert not np.array_equal(data.image.values[0], plain[0])


def test_a_lora_is_safetensors_or_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a cat")
    (tmp_path / "lora.bin").write_bytes(b"")
    ip_image = np.zeros((8, 8, 3), np.uint8)
    from PIL import Image

    Image.fromarray(ip_image).save(tmp_path / "a.png")
    for name, why in (("lora.bin", "no \\*.safetensors"), ("lora.safetensors", "not there")):
        with pytest.raises(InterpError, match=why):
            audit(data=tmp_path, lora=tmp_path / name, out=tmp_path / "out")
