"""Sweeps hold what sessions make, whatever kills them on the way."""

import os
import signal
import threading
import time
import warnings
from contextlib import nullcontext

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import DDPMScheduler
from distributed.protocol import deserialize, serialize
from PIL import Image

import interp as ip
from interp import InterpError, results
from interp.sweep.cluster import Source
from interp.sweep.store import DONE, Store
from tests.memory import scarce
from tests.sweep.conftest import FEW
from tests.sweeping import SETTINGS, small


def rms(a, b):
    return np.sqrt(((a / 255 - b / 255) ** 2).mean(axis=(-3, -2, -1)))


def test_the_store_holds_what_the_session_makes(sd, path):
    """Recomputed for all prompts at once, with metrics by hand."""
    patches = {"h": ip.zero("pad"), "d": ip.copy("eot", to="pad")}
    photo = np.full((16, 16, 3), 200, np.uint8)
    grid = ip.sweep(
        sd,
        FEW,
        patches,
        seeds=[3, 5],
        store=path,
        metrics={"l2": ip.metrics.pixel_l2, "apart": ip.metrics.Diversity(ip.metrics.pixel_l2)},
        references=[None, Image.fromarray(photo)],
        record=[ip.mass, ip.token_mass],
        images=True,
    )
    run = sd.run(FEW, [3, 5], {"none": None, **patches}, [ip.mass, ip.token_mass], images=True)
    assert list(grid.patch.values) == ["none", "h", "d"]
    for name in ("image", "mass", "mass_uncond", "token_mass", "tokens", "timestep", "word"):
        expected = run[name].transpose(*grid[name].dims)
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(grid[name].values, expected, atol=1e-5)
        else:
            assert grid[name].values.tolist() == expected.values.tolist()
    image = grid.image.values.astype(float)
    baseline = rms(image, image[:1])
    np.testing.assert_allclose(grid.l2.sel(reference="baseline"), baseline, atol=1e-6)
    training = rms(image, photo.astype(float))
    np.testing.assert_allclose(grid.l2.sel(reference="training", prompt=1), training[:, 1], 1e-6)
    assert np.isnan(grid.l2.sel(reference="training", prompt=0)).all()
    np.testing.assert_allclose(grid.apart, rms(image[:, :, 0], image[:, :, 1]), atol=1e-6)
    said = results.provenance(grid)
    assert said["patches"].keys() == {"none", "h", "d"}
    assert said["model"] == sd.model
    assert said["metrics"]["l2"]["name"] == "pixel_l2"


def test_a_baseline_is_made_once_and_a_text_encoded_once(sd, path):
    rows, texts = [], []
    handles = [
        sd.pipe.unet.register_forward_hook(lambda m, a, output: rows.append(len(output[0]))),
        sd.pipe.text_encoder.register_forward_pre_hook(
            lambda m, args, kwargs: texts.extend((*args, kwargs.get("input_ids"))[0].tolist()),
            with_kwargs=True,
        ),
    ]
    empty = sd.encode("").ids.tolist()
    texts.clear()
    patches = [ip.zero("pad"), ip.zero("eot"), ip.zero("prompt")]
    ip.sweep(sd, FEW, patches, seeds=3, store=path)
    for handle in handles:
        handle.remove()
    assert sum(rows) == 2 * len(FEW) * 3 * (1 + len(patches))
    # The empty prompt is encoded with each run: it must follow a text encoder that changes.
    assert sum(ids != empty for ids in texts) == len(FEW)


def test_the_prompt_as_given_is_what_fidelity_is_against(sd, path):
    """Also where a mitigation rewrites it; and the rewritten words are kept whole."""
    seen = []

    def length(images, text):
        seen.append(text)
        return torch.full((len(images),), float(len(text)))

    length.against = "prompt"
    edits = {"rta": ip.mitigations.random_tokens(3)}
    texts = ["a goat", "an uncharacteristically churchgoing goat"]
    grid = ip.sweep(
        sd, texts, edits, 1, store=path, metrics={"length": length}, record=ip.token_mass
    )
    assert set(seen) == {"a photo", *texts}
    assert grid.length.values[:, :, 0].tolist() == [[6, 40]] * 2
    counts = [sd.encode(edits["rta"].text(t, sd.pipe.tokenizer)).counts["prompt"] for t in texts]
    assert grid.tokens.sel(patch="rta", category="prompt").values.tolist() == counts
    assert "uncharacteristically" in grid.word.sel(patch="none", prompt=1).values
    assert np.isfinite(grid.token_mass).all()


def test_guidance_is_an_axis(sd, path, tmp_path):
    asked = {"patches": ip.zero("pad"), "seeds": 1, "record": ip.mass, "images": True}
    both = ip.sweep(sd, FEW, guidance=[1, 4], store=path, **asked)
    assert both.mass.dims[:4] == ("guidance", "patch", "prompt", "seed")
    for scale in (1, 4):
        session = ip.Session(sd.pipe, guidance=scale, **SETTINGS)
        one = ip.sweep(session, FEW, store=tmp_path / f"{scale}.zarr", **asked)
        for name in set(one.data_vars):
            np.testing.assert_array_equal(both[name].sel(guidance=scale), one[name])
    assert np.isnan(both.mass_uncond.sel(guidance=1)).all()
    assert np.isfinite(both.mass_uncond.sel(guidance=4)).all()


def test_a_patch_that_finds_nothing_leaves_its_cells_empty(sd, path):
    texts = ["goat " * 75, "a goat"]
    asked = {"metrics": {"l2": ip.metrics.pixel_l2}, "images": True, "seeds": 1}
    grid = ip.sweep(sd, texts, {"h": ip.zero("pad"), "f": ip.zero("eot")}, store=path, **asked)
    assert grid.applies.values.tolist() == [[True, True], [False, True], [True, True]]
    baseline = grid.l2.sel(reference="baseline")[:, :, 0]
    assert np.isnan(baseline.values).tolist() == [[False, False], [True, False], [False, False]]
    assert not grid.image.sel(patch="h", prompt=0).any()
    assert grid.image.sel(patch="h", prompt=1).any()


def test_files_of_prompts_and_labels_become_coordinates(sd, path, tmp_path):
    table = tmp_path / "prompts.csv"
    table.write_text("caption,url,copies\na goat,u1,30\nthe goat,u1,30\na cow,u2,1\n")
    file = ip.read_prompts(table)
    labels = file.frame()[["copies"]].astype(int).assign(kind_of=["memorized"] * 2 + ["control"])
    ip.sweep(sd, file, seeds=1, store=path, labels=labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = xr.open_zarr(path).load()
    assert grid.text.values.tolist() == ["a goat", "the goat", "a cow"]
    assert grid.group.values.tolist() == ["u1", "u1", "u2"]
    assert grid.copies.values.tolist() == [30, 30, 1]
    assert grid.done.values.all()
    grouped = grid.image.astype(float).groupby("kind_of").mean(...)
    assert set(grouped.kind_of.values) == {"memorized", "control"}


@pytest.mark.slow
def test_a_worker_killed_in_mid_sweep_changes_nothing(folder, path, whole):
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    killed = []
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        first = set(client.run(os.getpid).values())

        def kill_one():
            while len(killed) < 1:
                time.sleep(0.02)
                if path.exists() and xr.open_zarr(path)[DONE].values.any():
                    killed.append(min(first))
                    os.kill(killed[0], signal.SIGKILL)

        killer = threading.Thread(target=kill_one)
        killer.start()
        grid = small(folder, path, client=client)
        killer.join(60)
        assert killed
        xr.testing.assert_identical(grid.load(), whole)
        # The other worker, which lived, had loaded the model once and let go of it.
        assert not [name for name in client.run(plugins).values() if name]


@pytest.mark.parametrize("where", ["here", "cluster"])
def test_where_memory_runs_out_the_store_is_the_same(folder, path, tmp_path, where):
    """Batches are halved, once: the second prompt begins with what fitted the first."""
    expected = small(folder, tmp_path / "enough.zarr", FEW).load()
    distributed = pytest.importorskip("distributed")
    local = (
        distributed.Client(processes=False, n_workers=1, dashboard_address=None)
        if where == "cluster"
        else nullcontext()
    )
    with local as client, scarce(4) as tried:
        grid = small(folder, path, FEW, client=client).load()
    assert [rows for rows in tried if rows > 4] == [12, 6]
    for name, variable in grid.variables.items():
        if variable.dtype.kind == "f":
            np.testing.assert_allclose(variable, expected[name], atol=1e-4)
        elif name == "image":
            assert np.abs(variable.astype(int) - expected[name].astype(int)).max() <= 1
        else:
            assert np.array_equal(variable, expected[name]), name


def test_prompts_are_written_here_whoever_is_dasks_default(sd, path, monkeypatch):
    """Workers are busy with prompts: what is asked of them waits for the last one."""
    schedulers, write = [], Store.write

    def seen(self, place, data):
        schedulers.append(dask.config.get("scheduler", None))
        write(self, place, data)

    monkeypatch.setattr(Store, "write", seen)
    ip.sweep(sd, FEW, store=path, seeds=1, images=True)
    assert schedulers == ["threads"] * 2
    assert dask.config.get("scheduler", None) is None


def plugins(dask_worker):
    return [name for name in dask_worker.plugins if name.startswith("interp")]


def test_workers_get_the_very_same_model_or_say_so(sd, folder):
    source = Source.of(sd)
    assert source.load().provenance() == sd.provenance()
    with pytest.raises(InterpError, match="only in memory"):
        Source.of(ip.Session(sd.pipe))
    changed = ip.load(folder, **SETTINGS)
    config = changed.pipe.scheduler.config
    changed.pipe.scheduler = DDPMScheduler.from_config(config)
    assert Source.of(changed).load().provenance() == changed.provenance()
    changed.pipe.scheduler = DDPMScheduler.from_config(config, beta_start=0.002)
    with pytest.raises(InterpError, match="scheduler.beta_start is 0.002 there"):
        Source.of(changed).load()
    changed = ip.load(folder, **SETTINGS)
    next(changed.pipe.unet.parameters()).data += 1
    with pytest.raises(InterpError, match="model.parts.unet is"):
        Source.of(changed).load()


def test_metrics_travel_as_where_their_weights_lie(tmp_path):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4))
    example = torch.zeros(1, 3, 64, 64)
    network(example)
    torch.jit.save(torch.jit.trace(network.eval(), example), tmp_path / "d.pt")
    sscd = ip.metrics.SSCD(tmp_path / "d.pt", "native", batch_size=3)
    header, sent = serialize(ip.metrics.Diversity(sscd))
    again = deserialize(header, sent).metric
    assert sum(map(len, sent)) < 2000
    assert again.provenance() == sscd.provenance()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(images, images[:1]), sscd(images, images[:1]))
