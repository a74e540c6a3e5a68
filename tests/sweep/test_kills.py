"""A store is sound whenever its process is killed."""

import multiprocessing
import os
import signal
import time

import numpy as np
import pytest
import xarray as xr

from interp import results
from interp.sweep.store import Store
from tests.sweep.conftest import FEW, written
from tests.sweeping import TEXTS, die_at, in_a_process


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
