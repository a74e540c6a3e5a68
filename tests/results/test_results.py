"""Datasets keep their contents, and say what they are."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import interp
from interp import InterpError, record
from interp.results.axes import DIMS, ordered
from interp.results.provenance import describe, packages, provenance, stamp
from interp.results.store import save
from tests.runs import latents


@pytest.fixture
def data() -> xr.Dataset:
    mass = np.random.default_rng(0).random((1, 2, 3, 4, 5, 4), dtype=np.float32)
    mass[:, :, :, 0, 3:] = np.nan
    coords = {"category": ["sot", "prompt", "eot", "pad"], "text": ("prompt", ["goat"])}
    return stamp(xr.Dataset({"mass": (DIMS, mass)}, coords), seeds=[0, 1], patch=None, on=True)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_saved_and_opened_is_identical(data: xr.Dataset, tmp_path: Path, suffix: str) -> None:
    path = save(data, tmp_path / f"run{suffix}")
    again = interp.open(path)
    xr.testing.assert_identical(again, data)
    assert again.mass.dtype == np.float32
    # Nothing else is left in the folder, and the file can be written again.
    save(again, path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    xr.testing.assert_identical(interp.open(path), data)


TEXTS = ["a\0b", "two\\0 \\\\ backslashes", "\u2028", "emoji \U0001f410", ""]


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
@pytest.mark.parametrize("kind", [str, object])
def test_any_text_is_saved_and_no_warning_given(tmp_path: Path, suffix: str, kind: type) -> None:
    texts = np.array(TEXTS, dtype=kind)
    data = xr.Dataset(
        {"x": ("text", np.arange(5)), "said": (("a", "text"), texts[None], {"unit": "word"})},
        coords={"text": texts, "name": ("text", texts[::-1])},
    )
    data = data.assign_coords(none=(("a", "b"), np.empty((1, 0), kind)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = interp.open(save(data, tmp_path / f"run{suffix}"))
    xr.testing.assert_identical(again, data)
    assert again.sel(text="a\0b").x == 0
    assert again.text.dtype.kind in "UO"
    assert data.said.attrs == {"unit": "word"}  # nothing was written into the caller's


def test_a_nul_in_an_attribute_says_where(data: xr.Dataset, tmp_path: Path) -> None:
    odd = data.assign_attrs(note="a\0b")
    with pytest.raises(InterpError, match="attribute 'note' of the dataset"):
        save(odd, tmp_path / "run.nc")
    assert interp.open(save(odd, tmp_path / "run.zarr")).attrs["note"] == "a\0b"


def test_a_recording_survives_saving(pipe, tmp_path: Path) -> None:
    with record(pipe, interp.mass, interp.entropy, interp.token_mass, interp.maps(size=4)) as log:
        latents(pipe)
    data = log.dataset()
    xr.testing.assert_identical(interp.open(save(data, tmp_path / "run.nc")), data)


def test_a_failed_save_leaves_the_old_file(data: xr.Dataset, tmp_path: Path) -> None:
    path = save(data, tmp_path / "run.nc")
    with pytest.raises(TypeError):
        save(data.assign_attrs(bad={"no": "dictionaries"}), path)
    xr.testing.assert_identical(interp.open(path), data)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_a_missing_dataset_is_named(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InterpError, match="no such file"):
        interp.open(tmp_path / f"run{suffix}")
    with pytest.raises(InterpError, match="folder does not exist"):
        interp.open(tmp_path / "nowhere" / f"run{suffix}")


def test_a_half_written_dataset_is_refused(data: xr.Dataset, tmp_path: Path) -> None:
    path = save(data, tmp_path / "run.nc")
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2):
        path.write_bytes(whole[:size])
        with pytest.raises(InterpError, match="not a complete .nc dataset"):
            interp.open(path)


@pytest.mark.parametrize("lost", ["chunk", "half a chunk", "variable", "half its metadata", "root"])
def test_a_half_copied_zarr_store_is_refused(data: xr.Dataset, tmp_path: Path, lost: str) -> None:
    """Zarr itself reads a missing chunk as NaN, and a missing variable as none."""
    path = save(data, tmp_path / "run.zarr")
    metadata = path / "mass" / "zarr.json"
    chunk = next(file for file in metadata.parent.rglob("*") if file.is_file() and file != metadata)
    if lost in ("half a chunk", "half its metadata"):
        file = chunk if "chunk" in lost else metadata
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        {"chunk": chunk, "variable": metadata, "root": path / "zarr.json"}[lost].unlink()
    with pytest.raises(InterpError, match="not a complete .zarr dataset"):
        interp.open(path)


def test_a_folder_that_is_no_zarr_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.zarr").mkdir()
    with pytest.raises(InterpError, match="not a complete .zarr dataset"):
        interp.open(tmp_path / "run.zarr")


def test_other_suffixes_and_missing_folders_are_refused(data: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(InterpError, match=r"netCDF \(.nc\) or Zarr"):
        save(data, tmp_path / "run.csv")
    with pytest.raises(InterpError, match="There is no folder"):
        save(data, tmp_path / "nowhere" / "run.nc")


def test_provenance_is_one_json_attribute_and_grows(data: xr.Dataset) -> None:
    assert provenance(data) == {"seeds": [0, 1], "patch": None, "on": True}
    more = stamp(data, guidance=7.5, seeds=[2])
    assert provenance(more) == {"seeds": [2], "patch": None, "on": True, "guidance": 7.5}
    assert provenance(data)["seeds"] == [0, 1]
    assert provenance(xr.Dataset()) == {}


def test_a_pipeline_describes_itself(pipe) -> None:
    latents(pipe, steps=2, guidance_scale=3.0)
    facts = json.loads(json.dumps(describe(pipe)))
    assert facts["scheduler"]["class"] == "DDIMScheduler"
    assert facts["steps"] == 2
    assert facts["guidance"] == 3.0
    assert facts["dtype"] == "float32"
    assert facts["packages"].keys() >= {"python", "torch", "diffusers"}
    assert packages() == facts["packages"]


def test_axes_are_ordered() -> None:
    assert ordered(["category", "method", "layer", "prompt"]) == (
        "prompt",
        "layer",
        "category",
        "method",
    )
    assert ordered(DIMS[::-1]) == DIMS
