"""Loading by name: from anywhere, safetensors only, nothing fetched unasked, weights by hash."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import interp.session.load
from interp.errors import InterpError
from interp.results.hashes import folder_sha256
from interp.results.identity import identity
from interp.session.embedded import embedded
from interp.session.load import find, load
from tests.pipelines import pipeline


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    pipeline("sd1").save_pretrained(root / "organism" / "small")
    return root


def test_an_embedded_model_is_found_from_any_directory(data, tmp_path, monkeypatch):
    assert find("embedded") == find("embedded:eot") is not None
    monkeypatch.setenv("INTERP_DATA", str(data))
    monkeypatch.chdir(tmp_path)
    assert "embedded:small" in embedded()
    by_name, by_path = load("embedded:small", steps=3), load(data / "organism" / "small")
    assert by_name.model["id"] == "embedded:small"
    assert by_name.model["parts"] == by_path.model["parts"]
    assert by_name.steps == 3
    assert by_name.model["parts"] == identity(pipeline("sd1"))["parts"]


def test_the_hash_sees_one_changed_weight_and_a_missing_file(data, tmp_path):
    before = folder_sha256(data / "organism" / "small")
    shutil.copytree(data / "organism" / "small", tmp_path / "copy")
    assert folder_sha256(tmp_path / "copy") == before
    pipe = pipeline("sd1")
    next(iter(pipe.unet.parameters())).data.flatten()[0] += 1
    pipe.unet.save_pretrained(tmp_path / "copy" / "unet")
    assert folder_sha256(tmp_path / "copy") != before


def test_dtypes(data):
    folder = data / "organism" / "small"
    assert load(folder, device="cpu").pipe.unet.dtype == torch.float32
    assert load(folder, dtype="bfloat16", device="cpu").pipe.unet.dtype == torch.bfloat16
    with pytest.raises(InterpError, match="float16 only on a GPU"):
        load(folder, dtype=torch.float16, device="cpu")
    with pytest.raises(InterpError, match="float64 was asked for"):
        load(folder, dtype="float64", device="cpu")


def test_pickled_weights_are_refused(data, tmp_path):
    shutil.copytree(data / "organism" / "small", tmp_path / "old")
    for file in (tmp_path / "old").rglob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    with pytest.raises(InterpError, match="pickled weights are never read"):
        load(tmp_path / "old")


@pytest.mark.parametrize(
    ("lost", "half", "why"),
    [
        ("unet/diffusion_pytorch_model.safetensors", True, "Unable to load weights"),
        ("unet/diffusion_pytorch_model.safetensors", False, "no file named"),
        ("vae/config.json", True, "not a valid JSON file"),
        ("model_index.json", True, "not a valid JSON file"),
        ("tokenizer/tokenizer.json", False, "of the 49408 tokens"),
    ],
)
def test_a_half_copied_model_is_refused(data, tmp_path, lost, half, why):
    folder = shutil.copytree(data / "organism" / "small", tmp_path / "copy")
    content = (folder / lost).read_bytes()
    (folder / lost).unlink()
    if half:
        (folder / lost).write_bytes(content[: len(content) // 2])
    with pytest.raises(InterpError, match=f"incomplete or damaged: .*{why}"):
        load(folder)


@pytest.mark.parametrize(
    "name",
    ["embedded:none", "organism/eot", "organism/bang", "nowhere", "./nowhere/here", "/not/at/all"],
)
def test_a_local_name_that_is_not_there_never_reaches_the_hub(name, data, monkeypatch, tmp_path):
    monkeypatch.setenv("INTERP_DATA", str(data))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(interp.session.load, "_download", None)
    with pytest.raises(InterpError, match=r"Embedded models: .*embedded:small"):
        load(name)


def test_a_path_is_a_path_whatever_it_is_called(data, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "organism").symlink_to(data / "organism")
    (tmp_path / "organism" / "eot").mkdir()
    (tmp_path / "embedded").symlink_to(data / "organism" / "small")
    assert find("organism/small") == Path("organism/small")
    with pytest.raises(InterpError, match=r"The folder 'organism/eot' has no model_index.json"):
        find("organism/eot")
    (tmp_path / "organism" / "eot").rmdir()
    assert find("./embedded") == find(Path("embedded")) == Path("embedded") != find("embedded")
    assert find("owner/name") is None


LOADED = """
import logging, interp as ip
from diffusers.utils import logging as diffusers
from transformers.utils import logging as transformers
before = [transformers.get_verbosity(), diffusers.get_verbosity()]
sd = ip.load(steps=2)
assert sd.model["id"] == "embedded"
assert transformers.is_progress_bar_enabled() and diffusers.is_progress_bar_enabled()
assert [transformers.get_verbosity(), diffusers.get_verbosity()] == before
assert not logging.getLogger("transformers.utils.import_utils").filters
"""


@pytest.mark.slow
def test_loading_says_nothing_and_leaves_logging_as_it_was(tmp_path):
    root = Path(interp.session.load.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", LOADED],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_hub_id_that_is_not_cached_says_so():
    with pytest.raises(InterpError, match="not in the local cache"):
        load("nobody/nothing-of-this-name", local_files_only=True)
