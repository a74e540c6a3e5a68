"""The small sweeps of this folder: a model in a folder, its session, and a store."""

import pytest

import interp as ip
from tests.pipelines import pipeline
from tests.sweeping import SETTINGS, TEXTS, small

FEW = TEXTS[:2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as a user has it: a folder."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    pipeline("sd1").save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def sd(folder):
    return ip.load(folder, **SETTINGS)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The small sweep, undisturbed."""
    return small(folder, tmp_path_factory.mktemp("runs") / "whole.zarr").load()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sweep.zarr"


def written(path):
    """When each file below a folder was last written."""
    return {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def begun(sd, tmp_path_factory):
    """A small store and the call that made it."""
    path = tmp_path_factory.mktemp("begun") / "sweep.zarr"
    asked = {
        "prompts": FEW,
        "patches": {"h": ip.zero("pad"), "f": ip.zero("eot")},
        "seeds": 2,
        "store": path,
        "metrics": {"l2": ip.metrics.TileL2(4)},
        "labels": {"copies": [3.0, float("nan")]},
    }
    ip.sweep(sd, **asked)
    return asked
