"""What `pip install` brings without a checkout: the embedded model, and every command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")

pytestmark = pytest.mark.slow

USED = """
import sys
from pathlib import Path

import interp as ip
from interp.cli import main

here = Path(sys.argv[1])
assert here in Path(ip.__file__).parents, ip.__file__
sd = ip.load(steps=3)
assert sd.model["id"] == "embedded"
Path("controls.txt").write_text("a photo of a cat\\na photo of a dog\\n")
Path("suspects.txt").write_text("a photo of a goat\\n")
small = ["--steps", "3", "--seeds", "2"]
files = ["--prompts", "suspects.txt", "--controls", "controls.txt", "--limit", "1"]
for asked in (
    ["inspect", "a photo of a goat", *small],
    ["calibrate", "--controls", "controls.txt", "--out", "calibration.json", *small],
    ["inspect", "a photo of a goat", *small, "--calibration", "calibration.json"],
    ["report", *files, "--full", "--ablation", "out/ablation", *small],
):
    try:
        main(asked)
    except SystemExit as end:
        assert not end.code, asked
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A folder with the installed package and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    build = ("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "wheel", ROOT)
    subprocess.run([*PIP, *build], check=True)
    (wheel,) = (folder / "wheel").glob("*.whl")
    assert wheel.stat().st_size < 60e6
    subprocess.run([*PIP, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder


def test_it_loads_inspects_and_reports_from_an_empty_folder(bare, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "INTERP_DATA"}
    done = subprocess.run(
        [sys.executable, "-c", USED, bare / "site"],
        cwd=tmp_path, env={**environment, "PYTHONPATH": str(bare / "site")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "above a level that 1% of 2 controls may exceed" in " ".join(done.stdout.split())
    assert (tmp_path / "out" / "report" / "report.html").is_file()
    assert (tmp_path / "out" / "ablation" / "ablation.md").is_file()
    for stage in ("the model embedded", "images of 2 prompts under", "the page and its figures"):
        assert stage in done.stderr


def test_the_build_of_the_model_says_that_it_wants_a_checkout(bare, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "interp", "organism", "build"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(bare / "site")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Work from a checkout" in done.stderr
