"""Step by step: the clean trajectory, the initial noise, guidance, and schedulers."""

import io

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import HeunDiscreteScheduler, PNDMScheduler
from tqdm.auto import tqdm

from interp.record.recorders import mass
from interp.session import Session
from tests.session.conftest import FEW, TEXTS, generator


def test_the_clean_trajectory_is_that_of_the_unpatched_run(sd):
    asked = {"seeds": [5], "patch": FEW, "record": mass, "half": False}
    own, clean = sd.trace(TEXTS, **asked), sd.trace(TEXTS, **asked, trajectory="clean")
    baseline = own.sel(patch="none")
    for name in FEW:
        for variable in ("latents", "final_latents"):
            np.testing.assert_allclose(
                clean[variable].sel(patch=name), baseline[variable], atol=1e-4
            )
    # At the first step both start from the same noise, so the effects agree there, patched or not.
    for variable in ("eps_c", "mass"):
        first = {"step": 0}
        np.testing.assert_allclose(
            clean[variable].isel(first), own[variable].isel(first), atol=1e-4
        )
    assert abs(clean.eps_c.sel(patch="zero") - clean.eps_c.sel(patch="none")).max() > 1e-3


def test_the_clean_trajectory_in_pieces_is_the_whole(one):
    asked = {"seeds": [5], "patch": FEW, "trajectory": "clean", "record": mass}
    whole = one.run(TEXTS, **asked)
    pieces = Session(one.pipe, steps=3, budget=1e-9).run(TEXTS, **asked)
    xr.testing.assert_allclose(whole, pieces, atol=1e-4)


def test_noise_is_what_the_pipeline_draws(one):
    pipe = one.pipe
    drawn = pipe.prepare_latents(1, 4, 32, 32, torch.float32, "cpu", generator(11))
    assert torch.equal(drawn, one.noise(11))
    np.testing.assert_array_equal(
        one.trace(TEXTS[0], seeds=[11], half=False).latents[0, 0, 0], drawn[0]
    )


def test_guidance_at_start_is_the_trace_at_step_0(sd):
    trace = sd.trace(TEXTS, seeds=[4], half=False)
    for i, prompt in enumerate(sd.encode(TEXTS)):
        direct = sd.guidance_at_start(prompt, prompt.embeds, sd.noise(4))
        difference = (trace.eps_c - trace.eps_u).isel(prompt=i, seed=0, step=0)
        np.testing.assert_allclose(direct[0].detach(), difference, atol=1e-5)


def test_without_guidance_there_are_no_unconditional_rows(sd):
    plain = Session(sd.pipe, steps=3, guidance=1.0)
    trace = plain.trace(TEXTS, record=mass)
    assert "eps_u" not in trace
    assert "mass_uncond" not in trace
    assert plain.uncond_policy == "none"
    image = sd.pipe(
        TEXTS[0], num_inference_steps=3, guidance_scale=1.0, generator=generator(0)
    ).images[0]
    assert np.array_equal(np.asarray(plain.images(TEXTS[0])[0]), np.asarray(image))


class Bar(tqdm):
    """A progress bar that shows itself to nobody, and is remembered."""

    made = []  # noqa: RUF012 - a record of the class

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings | {"disable": False, "file": io.StringIO()})
        self.made.append(self)


@pytest.mark.parametrize(("scheduler", "calls"), [(HeunDiscreteScheduler, 5), (PNDMScheduler, 4)])
def test_schedulers_that_call_the_unet_more_often_than_they_have_steps(
    one, monkeypatch, scheduler, calls
):
    other = scheduler.from_config(one.pipe.scheduler.config, skip_prk_steps=True)
    monkeypatch.setattr(one.pipe, "scheduler", other)
    monkeypatch.setattr("interp.session.batches.tqdm", Bar)
    trace = one.trace(TEXTS, record=mass)
    assert trace.sizes["step"] == calls
    assert Bar.made[-1].n == Bar.made[-1].total == calls * len(TEXTS)
    assert np.isfinite(trace.eps_c).all()
    assert np.isfinite(trace.mass).all()
    assert ((trace.alpha_bar > 0) & (trace.alpha_bar < 1)).all()
