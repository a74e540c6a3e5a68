"""Every notebook runs from top to bottom on a real kernel, and is kept as it ran."""

import os
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CELLS = 25
FEWER = {
    "steps=25": "steps=14",  # the last that any cell asks for is the fourteenth
    "range(4)": "range(2)",
    "limit=12": "limit=2",
    "cases[:12], cases[12:]": "cases[:2], cases[2:]",
}
"""What a notebook is run with, so that its cells take seconds: the same calls, on less."""

pytestmark = pytest.mark.skipif(
    not (ROOT / "data" / "organism" / "eot" / "evaluation.json").is_file(),
    reason="the model in data/organism is half trained",
)


@pytest.fixture(scope="module")
def kernel():
    """One kernel for all: imports take longer than most cells."""
    threads = max(1, (os.cpu_count() or 1) // 2)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}
    manager, client = start_new_kernel(kernel_name="python3", env=env)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_without_an_error(path, kernel):
    book = nbformat.read(path, as_version=4)
    for cell in book.cells:
        for usual, fewer in FEWER.items():
            cell.source = cell.source.replace(usual, fewer)
    # No name of the notebook before: each begins from nothing.
    book.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    client = NotebookClient(book, km=kernel[0], timeout=600)
    client.kc = kernel[1]
    client.execute()
    streams = [
        output.text
        for cell in book.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stdout"
    ]
    assert not streams, "logs scroll by; show values instead"


def test_what_is_made_fewer_is_still_in_a_notebook():
    sources = "".join(path.read_text(encoding="utf-8") for path in NOTEBOOKS)
    assert all(usual in sources for usual in FEWER)


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
