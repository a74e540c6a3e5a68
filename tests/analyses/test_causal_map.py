"""The causal map of an analysis against the methods that it puts together."""

import numpy as np
import pytest
import xarray as xr

import interp as ip
from analyses import causal_map
from interp import attribute
from tests.pipelines import pipeline


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("causal")
    pipeline("sd1").save_pretrained(folder / "model")
    (folder / "memorized.txt").write_text("a goat in the park\na cow\n")
    (folder / "controls.txt").write_text("a pig\n")
    found = causal_map.main(
        str(folder / "model"), folder / "memorized.txt", folder / "controls.txt",
        folder / "out", limit=2, seeds=2, steps=3,
    )  # fmt: skip
    return folder, found


def test_contributions_are_those_of_each_prompt_alone(made):
    folder, found = made
    sd = ip.load(folder / "model", steps=3)
    value = attribute.similarity(ip.metrics.SSIM())
    alone = attribute.shapley(sd, "a cow", sd.encode("a pig"), value, seeds=range(2))
    np.testing.assert_allclose(found.phi.isel(prompt=1), alone.phi.isel(prompt=0), atol=1e-3)
    low, high = found.phi_interval.transpose("bound", "player").values
    mean = found.phi.mean(["prompt", "seed"]).values
    assert (low <= mean + 1e-6).all()
    assert (mean <= high + 1e-6).all()


def test_the_map_has_every_cell_exactly_and_estimated(made):
    folder, found = made
    sd = ip.load(folder / "model", steps=3)
    pads = ip.swap("pad", sd.encode("a pig"), "nearest", layers=[0], steps=[1], side="v")
    plain, patched = (
        sd.trace("a cow", range(2), patch, half=False, trajectory="clean") for patch in (None, pads)
    )
    norms = [
        np.sqrt(
            ((t.eps_c - t.eps_u).isel(prompt=0, step=1) ** 2).sum(
                ["channel", "latent_y", "latent_x"]
            )
        )
        for t in (plain, patched)
    ]
    cell = found.exact.sel(patch="pad", side="v", step=1).isel(prompt=1, layer=0)
    np.testing.assert_allclose(cell, norms[1] - norms[0], atol=1e-4)
    assert found.exact.dims == found.estimate.dims
    assert found.attrs["exact_unet_rows_naive"] > found.attrs["exact_unet_rows"]


def test_what_is_written_is_what_is_returned(made):
    folder, found = made
    out = folder / "out"
    xr.testing.assert_allclose(ip.open(out / "causal.nc").phi, found.phi)
    phi = float(found.phi.mean(["prompt", "seed"]).sel(player="pad"))
    row = next(line for line in (out / "shapley.md").read_text().splitlines() if "| pad" in line)
    assert f"{phi:.3f} [" in row
    through = float(found.exact.sel(side="v", patch="eot").sum(["layer", "step"]).mean())
    row = next(line for line in (out / "where.md").read_text().splitlines() if "through v" in line)
    assert f"{through:.3f} [" in row
    names = {path.stem for path in (out / "figures").iterdir()}
    assert names == {"shapley", "map", "map_estimate", "heads", "running_sum", "agreement"}


def test_without_a_control_there_is_no_donor(tmp_path, made):
    folder, _ = made
    with pytest.raises(ip.InterpError, match="no control prompt"):
        causal_map.main(str(folder / "model"), folder / "memorized.txt", out=tmp_path / "out")
