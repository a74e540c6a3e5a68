"""Pipelines that share a UNet: each is patched and recorded by what is on itself."""

import threading
import warnings
from typing import Any

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
)

import interp as ip
from interp import InterpError
from tests.matrix.families import image
from tests.matrix.oracle import EFFECT, Z, encoders_edited, run
from tests.pipelines import pipeline


@pytest.fixture
def pair() -> tuple[Any, Any]:
    """Text-to-image, and image-to-image on the same modules with a scheduler of its own."""
    one = pipeline("sd1")
    two = StableDiffusionImg2ImgPipeline.from_pipe(one)
    two.scheduler = DPMSolverMultistepScheduler.from_config(one.scheduler.config)
    for pipe in (one, two):
        pipe.set_progress_bar_config(disable=True)
    return one, two


def test_a_sibling_is_left_alone_and_that_is_said(pair: tuple[Any, Any]) -> None:
    one, two = pair
    plain = run(two, **image())
    with Z.on(one) as applied:
        with pytest.warns(UserWarning, match="StableDiffusionImg2ImgPipeline runs the UNet of the"):
            assert torch.equal(run(two, **image()), plain)
        assert (applied.clock.run, ip.installed(one), ip.installed(two)) == (-1, [applied], [])
        with ip.record(one) as log:
            run(two, **image())
        with pytest.raises(InterpError, match="Nothing was recorded"):
            log.dataset()


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_a_siblings_guidance_and_schedule_are_its_own(
    pair: tuple[Any, Any], guidance: float
) -> None:
    one, two = pair
    run(one, guidance_scale=8.5 - guidance)
    with encoders_edited(two):
        right = [run(two, guidance_scale=guidance, **image()) for _ in range(2)]
    assert (right[0] - run(two, guidance_scale=guidance, **image())).abs().max() > EFFECT
    with Z.on(two):
        ours = [run(two, guidance_scale=guidance, **image()) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(ours, right, strict=True))
    with ip.zero("pad", fraction=0.7, steps=0).on(two):
        first = run(two, guidance_scale=guidance, **image())
        run(one, guidance_scale=guidance)
        again = run(two, guidance_scale=guidance, **image())
    assert torch.equal(first, again)
    assert not torch.equal(first, right[0])


def test_both_may_be_patched_and_recorded_at_once(pair: tuple[Any, Any]) -> None:
    one, two = pair
    with Z.on(one):
        alone = run(one)
    with ip.zero("eot").on(two):
        other = run(two, **image())
    with warnings.catch_warnings(), Z.on(one), ip.zero("eot").on(two), ip.record(two) as log:
        warnings.simplefilter("ignore")
        assert torch.equal(run(one), alone)
        assert torch.equal(run(two, **image()), other)
        assert torch.equal(run(one), alone)
    data = log.dataset()
    assert data.sizes["seed"] == 1
    (patch,) = ip.provenance(data)["patches"]
    assert ip.Patch.from_json(patch) == ip.zero("eot")


def test_two_threads_with_one_unet() -> None:
    """What is on one pipeline does not reach another that calls the UNet at the same time."""
    one = pipeline("sd1")
    two = StableDiffusionPipeline.from_pipe(one)
    two.scheduler = type(one.scheduler).from_config(one.scheduler.config)
    for pipe in (one, two):
        pipe.set_progress_bar_config(disable=True)
    parts = ip.zero("pad", fraction=0.7, side="k") & ip.zero("eot", layers="up", heads=[0])
    plain = run(two, steps=6)
    with parts.on(one):
        patched = run(one, steps=6)
    results: dict[str, Any] = {}
    together = threading.Barrier(2)

    def work(name: str, pipe: Any) -> None:
        together.wait()
        results[name] = [run(pipe, steps=6) for _ in range(3)]

    with warnings.catch_warnings(), parts.on(one), ip.record(one) as log:
        warnings.simplefilter("ignore")
        threads = [threading.Thread(target=work, args=job) for job in (("1", one), ("2", two))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(image, patched) for image in results["1"])
    assert all(torch.equal(image, plain) for image in results["2"])
    assert log.dataset().sizes["seed"] == 3
    with parts.on(one), ip.record(one) as alone:
        for _ in range(3):
            run(one, steps=6)
    assert log.dataset().mass.equals(alone.dataset().mass)
