"""Sweeps hold what sessions make, whatever kills them on the way."""

import multiprocessing
import os
import signal
import threading
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import DDPMScheduler
from distributed.protocol import deserialize, serialize
from filelock import FileLock
from PIL import Image

import interp as ip
from interp import InterpError, results
from interp.sweep.cluster import Source
from interp.sweep.store import DONE, Store
from tests.changing import CHANGES, IDS, adapted
from tests.memory import scarce
from tests.pipelines import pipeline
from tests.sweeping import SETTINGS, TEXTS, die_at, in_a_process, small

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


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"patches": {"h": ip.zero("pad", fraction=0.001)}}, "None of the 2 prompts has positions"),
        ({"patches": {"none": ip.zero("pad")}}, "'none' is the baseline"),
        ({"patches": {"base": None}}, "'none' is the baseline"),
        ({"patches": [ip.zero("pad"), ip.zero("pad")]}, "Names are distinct"),
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": [1, 1]}, "Each seed comes once"),
        ({"guidance": []}, "at least one guidance scale"),
        ({"images": False}, "keeps nothing"),
        ({"metrics": {"image": ip.metrics.pixel_l2}}, "two variables of the name 'image'"),
        ({"labels": {"copies": [1]}}, r"shape \(1,\)"),
        ({"labels": {"copies": [1, None]}}, "type object"),
        ({"references": [None]}, "1 training images were given for 2"),
        ({"metrics": {"d": ip.metrics.Diversity(ip.metrics.pixel_l2)}, "seeds": 1}, "one image"),
        ({"metrics": {"odd": lambda a, b: torch.zeros(7)}}, r"shape \(7,\)"),
        ({"metrics": {"odd": SimpleNamespace(against="taste")}}, "against 'taste'"),
        (
            {
                "metrics": {"l2": ip.metrics.pixel_l2},
                "references": [None, np.zeros((24, 24, 3), np.uint8)],
            },
            "24",
        ),
    ],
)
def test_what_can_be_known_to_be_wrong_is_said_before_the_first_image(sd, path, asked, message):
    ran = []
    handle = sd.pipe.unet.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(InterpError, match=message):
        ip.sweep(sd, FEW, **{"store": path, **asked})
    handle.remove()
    assert not ran
    assert not path.exists()


def test_an_impossible_swap_is_said_before_the_first_image(sd, path):
    short = ip.swap("prompt", donor=sd.encode("goat"))
    with pytest.raises(InterpError, match="aligned by position"):
        ip.sweep(sd, FEW, short, store=path)
    with pytest.raises(InterpError, match="0 prompts"):
        ip.sweep(sd, [], store=path)
    for name in ("sweep.nc", "nowhere/sweep.zarr"):
        with pytest.raises(InterpError, match="in a folder that exists"):
            ip.sweep(sd, FEW, store=path.parent / name)


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


def written(path):
    """When each file below a folder was last written."""
    return {file: file.stat().st_mtime_ns for file in path.rglob("*") if file.is_file()}


def test_a_finished_sweep_is_not_run_again(sd, path):
    asked = {"seeds": 1, "store": path, "images": True}
    first = ip.sweep(sd, FEW, ip.zero("pad"), **asked).load()
    before = written(path)
    again = ip.sweep(sd, FEW, ip.zero("pad"), **asked)
    xr.testing.assert_identical(again.load(), first)
    assert written(path) == before


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
    with pytest.raises(InterpError, match="parts of it are gone"):
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


def test_killed_before_any_change_of_a_file(path):
    """Whatever the last change was: the store is not there, or says truly what is in it."""
    facts = {"prompts": FEW, "labels": {"copies": [1, 2]}}
    values = np.arange(6, dtype=np.float32).reshape(3, 2)

    def one(place):
        return xr.Dataset(
            {"score": (("patch", "prompt"), values[:, [place]])},
            coords={"patch": ["none", "a", "b"], "word": ("prompt", [FEW[place]])},
        )

    killed = survived = 0
    states = set()
    while not survived:
        child = os.fork()
        if not child:
            try:
                die_at(1 + 2 * killed, path.parent)
                store = Store(path, facts)
                for place in store.missing():
                    store.write(place, one(place))
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        survived = os.WIFEXITED(status)
        killed += not survived
        store = Store(path, facts)
        store.check()
        missing = store.missing()
        states.add(tuple(missing) if path.exists() else None)
        if path.exists():
            data = store.open().load()
            for place in set(range(2)) - set(missing):
                np.testing.assert_array_equal(data.score[:, place], values[:, place])
                assert data.word[place] == FEW[place]
        if not survived:
            # Each attempt begins anew, and gets a little further.
            for file in (path, store.beside):
                if file.exists():
                    file.rename(path.parent.parent / f"{file.name}-{killed}")
    assert survived
    assert killed > 10
    assert states == {None, (0, 1), (1,), ()}
    assert store.open().copies.values.tolist() == [1, 2]


@pytest.mark.slow
def test_killed_at_ten_random_moments_the_store_is_that_of_an_undisturbed_sweep(
    folder, path, whole
):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.sweeping"])

    def attempt(patience):
        begun = context.Event()
        process = context.Process(target=in_a_process, args=(folder, path, begun))
        process.start()
        assert begun.wait(300)
        start = time.monotonic()
        process.join(patience)
        process.kill()
        process.join()
        return process.exitcode, time.monotonic() - start

    code, duration = attempt(600)
    assert code == 0
    xr.testing.assert_identical(xr.open_zarr(path).load(), whole)
    path.rename(path.with_name("undisturbed.zarr"))
    random, kills, finishes, places, marks = np.random.default_rng(), 0, 0, set(), {}
    while kills < 10 or len(places) < 4:
        assert kills < 50, f"kills came only at {places} prompts to go"
        code, _ = attempt(random.uniform(0, duration))
        kills += code == -signal.SIGKILL
        finished = Store(path, results.provenance(whole)).missing() if path.exists() else None
        places.add(None if finished is None else len(finished))
        now = written(path)
        assert {file: now[file] for file in marks} == marks, "a finished cell was written again"
        if path.exists():
            done = set(range(len(TEXTS))) - set(finished)
            marks = {file: now[file] for file in now if of_prompt(path, file, whole) in done}
        if code == 0:
            # This machine was faster than thought: the kills go on with a new store.
            xr.testing.assert_identical(xr.open_zarr(path).load(), whole)
            finishes += 1
            path.rename(path.with_name(f"finished-{finishes}.zarr"))
            marks = {}
    assert attempt(600)[0] == 0
    xr.testing.assert_identical(xr.open_zarr(path).load(), whole)
    assert not list(path.rglob("*.partial"))


def of_prompt(path, file, whole):
    """The place of the prompt whose chunk a file is."""
    name, *key = file.relative_to(path).parts
    if len(key) < 2 or "prompt" not in whole[name].dims or name in ("prompt", "text"):
        return None
    return int(key[1 + whole[name].dims.index("prompt")])


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
    with pytest.raises(InterpError, match="made in memory"):
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
