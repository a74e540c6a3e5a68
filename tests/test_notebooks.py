"""Every notebook runs from top to bottom on a real kernel, and is kept as it ran."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CELLS = 25

pytestmark = pytest.mark.skipif(
    not (ROOT / "data" / "organism" / "evaluation.json").is_file(),
    reason="the model in data/organism is half trained",
)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_without_an_error(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    book = nbformat.read(path, as_version=4)
    NotebookClient(book, timeout=600, kernel_name="python3").execute()
    streams = [
        output.text
        for cell in book.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stdout"
    ]
    assert not streams, "logs scroll by; show values instead"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_kept_short_executed_and_without_errors(path):
    book = nbformat.read(path, as_version=4)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert len(book.cells) <= CELLS
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert "error" not in kinds
    assert any("image/png" in o.get("data", {}) for cell in code for o in cell.outputs)
    assert not any("def " in cell.source or "class " in cell.source for cell in code)
