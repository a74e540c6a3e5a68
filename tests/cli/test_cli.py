"""The command line: what it prints and writes, and what it says when it cannot."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import interp as ip
from interp.cli import main
from interp.cli.app import COMMANDS, command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of random weights as a user has one: a folder."""
    from tests.pipelines import pipeline

    path = tmp_path_factory.mktemp("model") / "sd1"
    pipeline("sd1").save_pretrained(path)
    return path


def run(capsys, *arguments):
    """What a command printed, and its exit status."""
    try:
        main([str(argument) for argument in arguments])
        status = 0
    except SystemExit as end:
        status = end.code or 0
    said = capsys.readouterr()
    return status, said.out, said.err


SMALL = ("--steps", 4, "--seeds", 2)


def test_inspect_shows_tokens_mass_and_detectors(capsys, folder, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    status, out, err = run(capsys, "inspect", "a photo of a goat", "--model", folder, *SMALL)
    assert status == 0, err
    sd = ip.load(folder, steps=4)
    mass = sd.run("a photo of a goat", range(2), record=ip.mass).mass
    pad = float(mass.mean(["prompt", "seed", "step", "layer", "head"]).sel(category="pad"))
    row = next(line for line in out.splitlines() if "pad" in line and "│" in line)
    assert f"{pad:.3f}" in row
    assert "goat" in out
    for name in ip.detect.DETECTORS:
        assert name in out


def test_inspect_answers_where_a_calibration_fits(capsys, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    asked = ("inspect", "a photo of a goat", "--model", folder, *SMALL)
    status, out, _ = run(capsys, *asked)
    assert status == 0
    assert "No answer. There is no calibration" in " ".join(out.split())
    (tmp_path / "controls.txt").write_text("a cow\na pig\n")
    file = tmp_path / "levels.json"
    made = ("calibrate", "--model", folder, "--controls", tmp_path / "controls.txt", *SMALL)
    status, _, err = run(capsys, *made, "--out", file)
    assert status == 0, err
    assert "2 controls" in err
    status, out, err = run(capsys, *asked, "--calibration", file)
    assert status == 0, err
    answer = out.splitlines()[-2:]
    assert "above a level that 1% of 2 controls may exceed" in " ".join(out.split())
    assert any(name in out for name in ("\nmemorized:", "\nunclear:", "\nnot memorized:")), answer
    status, out, err = run(capsys, *asked[:4], "--steps", 5, "--calibration", file)
    assert status == 1
    assert out == ""
    assert "steps: 4 in the calibration, 5 here" in err


def test_inspect_with_too_few_steps_says_so_before_it_runs(capsys, folder):
    status, out, err = run(capsys, "inspect", "a goat", "--model", folder, "--steps", 2)
    assert (status, out) == (1, "")
    assert "3 steps" in err


def test_mitigate_writes_both_rows_of_images(capsys, folder, tmp_path):
    path = tmp_path / "new" / "pair.png"
    status, out, err = run(
        capsys, "mitigate", "a photo of a goat", "--model", folder, "--out", path, *SMALL
    )
    assert status == 0, err
    assert str(path.name) in out.replace("\n", "")
    pixels = np.array(Image.open(path).convert("RGB"))
    assert pixels.std() > 10


def test_sweep_writes_a_store_that_plain_xarray_opens_and_continues(capsys, folder, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("Caption,URL\na goat,https://example.com/1.png\na cow,\n")
    store = tmp_path / "new" / "grid.zarr"
    asked = ("sweep", "--prompts", prompts, "--store", store, "--edit", "h", "--model", folder)
    assert run(capsys, *asked, *SMALL)[0] == 0
    grid = xr.open_zarr(store)
    assert grid.image.sizes["prompt"] == 2
    assert grid.patch.values.tolist() == ["none", "h"]
    straight = ip.load(folder, steps=4).run("a cow", [1], {"h": ip.paper.interventions()["h"]})
    found = grid.image.isel(prompt=1).sel(patch="h", seed=1)
    # Other batches add floats in another order, which may round a pixel to the next of 255 values.
    gap = found.values.astype(int) - straight.image.squeeze().values
    assert abs(gap).max() <= 1
    assert (gap == 0).mean() > 0.99
    status, _, err = run(capsys, *asked, "--steps", 3, "--seeds", 2)
    assert status == 1
    assert "steps" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("inspect", "a cat", "--model", "no/such/folder"), "no/such/folder"),
        (("mitigate", "a cat", "--edit", "z"), "There are a, b, c"),
        (("sweep", "--prompts", "nowhere.csv", "--store", "x.zarr"), "no such file"),
    ],
)
def test_errors_are_one_line(capsys, arguments, said):
    status, _, err = run(capsys, *arguments)
    assert status == 1
    assert said in err
    assert err.startswith("interp: ")
    assert err.count("\n") == 1


def test_debug_shows_where_an_error_is_from(folder):
    with pytest.raises(ip.InterpError):
        main(["--debug", "mitigate", "a cat", "--edit", "z"])


def test_every_command_has_help_which_its_list_repeats(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    status, out, err = run(capsys, "--help")
    assert status == 0, err
    for name, said in COMMANDS.items():
        assert name in out
        assert said in out
        assert command(name).help.startswith(said.removesuffix("."))
        assert run(capsys, name, "--help")[0] == 0


HEAVY = """torch diffusers transformers xarray numpy pandas scipy sklearn skimage matplotlib seaborn
dask zarr captum"""


@pytest.mark.parametrize("asked", ["--help", *(f"{name} --help" for name in COMMANDS)])
def test_help_loads_no_heavy_library(asked):
    code = (
        "import sys; from interp.cli import main\n"
        f"try: main({asked.split()})\n"
        f"except SystemExit: print(sorted(set({HEAVY.split()}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.slow
def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "interp", "mitigate", "a cat", "--edit", "z"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("interp: The edit 'z'")
