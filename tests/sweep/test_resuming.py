"""A sweep goes on where it was, and never with other settings, another model or a torn store."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from filelock import FileLock

import interp as ip
from interp import InterpError, results
from tests.changing import CHANGES, IDS, adapted
from tests.sweep.conftest import FEW, written
from tests.sweeping import SETTINGS


def test_a_finished_sweep_is_not_run_again(sd, path):
    asked = {"seeds": 1, "store": path, "images": True}
    first = ip.sweep(sd, FEW, ip.zero("pad"), **asked).load()
    before = written(path)
    again = ip.sweep(sd, FEW, ip.zero("pad"), **asked)
    xr.testing.assert_identical(again.load(), first)
    assert written(path) == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seeds": 3}, r"seeds is \[0, 1\] there and \[0, 1, 2\] here"),
        ({"prompts": [FEW[0], "a cow"]}, r"prompts\[1\] is '1 goats in a church' there"),
        ({"patches": {"h": ip.zero("pad", 0.5), "f": ip.zero("eot")}}, r"patches.h\[0\].fraction"),
        ({"patches": {"f": ip.zero("eot"), "h": ip.zero("pad")}}, r"patch\[1\] is 'h' there"),
        ({"metrics": {"l2": ip.metrics.TileL2(2)}}, "metrics.l2.tiles is 4 there and 2 here"),
        ({"record": ip.mass}, r"record is \[\] there"),
        ({"guidance": [7.5]}, r"guidance is 7.5 there and \[7.5\] here"),
        ({"images": True}, "images is False there and True here"),
        ({"labels": {"copies": [3.0, 1.0]}}, r"labels.copies\[1\] is nan there"),
        ({"references": [np.zeros((16, 16, 3), np.uint8), None]}, "references is None there"),
    ],
)
def test_other_settings_are_refused_by_name(sd, begun, change, named):
    before = written(begun["store"])
    with pytest.raises(InterpError, match=named):
        ip.sweep(sd, **{**begun, **change})
    assert written(begun["store"]) == before


def test_another_session_is_refused_by_name(sd, begun):
    with pytest.raises(InterpError, match="steps is 1 there and 2 here"):
        ip.sweep(ip.Session(sd.pipe, source=sd.source, **{**SETTINGS, "steps": 2}), **begun)
    # Where the model lies makes no difference.
    ip.sweep(ip.Session(sd.pipe, source={"id": "elsewhere"}, **SETTINGS), **begun)


@pytest.mark.parametrize(("change", "named"), CHANGES, ids=IDS)
def test_a_changed_model_is_refused_by_the_name_of_what_changed(begun, folder, change, named):
    other = ip.load(folder, **SETTINGS)
    change(other.pipe)
    before = written(begun["store"])
    with pytest.raises(InterpError, match=f"settings: {named}"):
        ip.sweep(other, **begun)
    assert written(begun["store"]) == before


def test_a_sweep_can_not_go_on_without_the_adapter_with_which_it_began(folder, path):
    other = ip.load(folder, **SETTINGS)
    adapted(other.pipe)
    ip.sweep(other, FEW, store=path, seeds=1)
    other.pipe.unet.disable_adapters()
    with pytest.raises(InterpError, match="model.adapters.unet.x is .* and None here"):
        ip.sweep(other, FEW, store=path, seeds=1)
    other.pipe.unet.enable_adapters()
    ip.sweep(other, FEW, store=path, seeds=1)


def test_damage_is_said(sd, path, tmp_path):
    asked = {"seeds": 1, "images": True}
    whole = ip.sweep(sd, FEW, store=path, **asked).load()
    chunk = next(file for file in (path / "image" / "c").rglob("1") if file.is_dir())
    chunk = next(file for file in chunk.rglob("*") if file.is_file())
    chunk.write_bytes(b"")
    with pytest.raises(InterpError, match=r"Delete .*c/1") as caught:
        ip.sweep(sd, FEW, store=path, **asked)
    # What the message says to do helps.
    Path(str(caught.value).split("Delete ")[1].split(" to have")[0]).unlink()
    xr.testing.assert_identical(ip.sweep(sd, FEW, store=path, **asked).load(), whole)
    (path / "zarr.json").write_text((path / "zarr.json").read_text()[:100])
    with pytest.raises(InterpError, match="parts of it are missing"):
        ip.sweep(sd, FEW, store=path, **asked)
    results.save(sd.run(FEW), tmp_path / "run.zarr")
    with pytest.raises(InterpError, match="not the store of a sweep"):
        ip.sweep(sd, FEW, store=tmp_path / "run.zarr", **asked)
    (tmp_path / "note.zarr").write_text("a note")
    with pytest.raises(InterpError, match="not the store of a sweep"):
        ip.sweep(sd, FEW, store=tmp_path / "note.zarr", **asked)


def test_one_process_writes_a_store(sd, path):
    with (
        FileLock(path.with_name(".sweep.zarr.lock")),
        pytest.raises(InterpError, match="Another process is writing it"),
    ):
        ip.sweep(sd, FEW, seeds=1, store=path)
    ip.sweep(sd, FEW, seeds=1, store=path)
