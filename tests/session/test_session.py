"""Sessions: what they run is what plain diffusers runs, whatever else is in the batch."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

from interp import encode, results
from interp.denoiser.epsilon import alpha_bar, to_epsilon
from interp.denoiser.memory import GIB, bytes_per_image, halving
from interp.errors import InterpError
from interp.patch import zero
from interp.record import record
from interp.record.recorders import mass
from interp.session import Session
from tests.changing import load_ip_adapter
from tests.conftest import hook_count
from tests.memory import scarce
from tests.pipelines import pipeline
from tests.session.conftest import CALL, FEW, PATCHES, TEXTS, generator


def test_images_are_those_of_plain_diffusers_bit_for_bit(sd):
    for text in TEXTS:
        plain = sd.pipe(text, **CALL, generator=generator(7), height=48, width=32)
        ours = Session(sd.pipe, steps=3, height=48, width=32).images(text, seeds=[7])
        assert np.array_equal(np.asarray(ours[0]), np.asarray(plain.images[0]))


def test_a_negative_prompt_is_that_of_plain_diffusers(sd):
    plain = sd.pipe(TEXTS[0], negative_prompt="a cow", **CALL, generator=generator(0))
    ours = Session(sd.pipe, steps=3, negative="a cow").images(TEXTS[0])
    assert np.array_equal(np.asarray(ours[0]), np.asarray(plain.images[0]))


def test_a_batch_is_the_loop_over_its_images(sd):
    together = sd.trace(TEXTS, seeds=[0, 5], patch=PATCHES, half=False)
    for i, (name, patch) in enumerate(PATCHES.items()):
        prompt, seed = i % 2, (0, 5)[i // 2 % 2]
        alone = sd.trace(TEXTS[prompt], seeds=[seed], patch=patch, half=False)
        beside = together.sel(patch=name, seed=[seed]).isel(prompt=[prompt])
        for variable in ("final_latents", "eps_c", "eps_u"):
            np.testing.assert_allclose(beside[variable], alone[variable], atol=1e-4)


def test_the_memory_budget_changes_nothing(one):
    whole = one.trace(TEXTS, seeds=[0, 5], patch=FEW, record=mass, half=False)
    one_by_one = Session(one.pipe, steps=3, budget=1e-9)
    small = one_by_one.trace(TEXTS, seeds=[0, 5], patch=FEW, record=mass, half=False)
    xr.testing.assert_allclose(whole, small, atol=1e-4)
    assert list(small.patch.values) == list(FEW)


def test_recordings_are_those_outside_a_session(sd):
    run = sd.run(TEXTS, seeds=[3], record=mass)
    for i, text in enumerate(TEXTS):
        with record(sd.pipe, mass) as log:
            sd.pipe(text, **CALL, generator=generator(3))
        alone = log.dataset()
        for variable in ("mass", "mass_uncond"):
            np.testing.assert_allclose(
                run[variable].isel(prompt=i, seed=0), alone[variable][0, 0], atol=1e-5
            )
        assert run.tokens.isel(prompt=i).values.tolist() == alone.tokens[0].values.tolist()


def test_traced_noise_makes_the_next_latents(sd):
    """The DDIM update from eps, by hand: right for noise and for velocity prediction alike."""
    trace = sd.trace(TEXTS, seeds=[1, 2], half=False)
    eps = trace.eps_u + sd.guidance * (trace.eps_c - trace.eps_u)
    last = alpha_bar(sd.pipe.scheduler, 0)
    after = [*trace.alpha_bar.values[1:], last]
    for step, abar_next in enumerate(after):
        abar, e = trace.alpha_bar.values[step], eps.isel(step=step)
        clean = (trace.latents.isel(step=step) - (1 - abar) ** 0.5 * e) / abar**0.5
        expected = abar_next**0.5 * clean + (1 - abar_next) ** 0.5 * e
        is_last = step == len(after) - 1
        actual = trace.final_latents if is_last else trace.latents.isel(step=step + 1)
        np.testing.assert_allclose(actual.values, expected.values, atol=2e-4, rtol=1e-4)


def test_half_keeps_what_float_keeps_to_half_precision(one):
    full, half = one.trace(TEXTS[0], half=False), one.trace(TEXTS[0])
    assert half.eps_c.dtype == np.float16
    np.testing.assert_allclose(half.eps_c, full.eps_c, atol=2e-3, rtol=2e-3)


def test_to_epsilon_undoes_each_parameterisation():
    clean, eps = torch.randn(2, 3, 4, 8, 8, generator=generator(0))
    for abar in (0.00578, 0.5, 0.9983):
        signal, sigma = abar**0.5, (1 - abar) ** 0.5
        z = signal * clean + sigma * eps
        for output, kind in [
            (eps, "epsilon"),
            (signal * eps - sigma * clean, "v_prediction"),
            (clean, "sample"),
        ]:
            torch.testing.assert_close(to_epsilon(output, z, abar, kind), eps, atol=1e-4, rtol=1e-4)
        flow = signal * clean + (1 - signal) * eps  # at t = 1 - signal
        velocity = eps - clean
        torch.testing.assert_close(
            to_epsilon(velocity, flow, abar, "flow_prediction"), eps, atol=1e-4, rtol=1e-4
        )
    with pytest.raises(InterpError, match="of_the_score.*Known prediction types"):
        to_epsilon(eps, eps, 0.5, "of_the_score")


def test_alpha_bar_is_the_published_table(one):
    for timestep, expected in [(981, 0.00578), (500, 0.2763), (1, 0.9983)]:
        assert alpha_bar(one.pipe.scheduler, timestep) == pytest.approx(expected, rel=1e-3)
    between = alpha_bar(one.pipe.scheduler, 499.5)
    assert alpha_bar(one.pipe.scheduler, 500) < between < alpha_bar(one.pipe.scheduler, 499)


def test_datasets_say_how_to_run_them_again_and_survive_the_disk(sd, tmp_path):
    run = sd.run(TEXTS, seeds=[5], patch=FEW, record=mass, images=True)
    said = results.provenance(run)
    expected = {"model", "packages", "scheduler", "steps", "guidance", "dtype", "device"}
    assert expected | {"seeds", "prompts", "patches", "uncond", "trajectory"} <= set(said)
    assert said["patches"]["zero"] == json.loads(PATCHES["zero"].to_json())
    assert said["model"] == sd.model
    assert said["uncond"] == ("zeros" if hasattr(sd.pipe, "text_encoder_2") else "''")
    path = results.save(run, tmp_path / "run.nc")
    xr.testing.assert_identical(results.open(path), run)


def test_a_number_of_seeds_is_the_first_so_many(one):
    few = Session(one.pipe, steps=1)
    xr.testing.assert_identical(
        few.run(TEXTS[0], seeds=2, record=mass), few.run(TEXTS[0], seeds=range(2), record=mass)
    )


def test_images_come_in_the_order_patch_prompt_seed(one):
    run = one.run(TEXTS, seeds=[0, 5], patch=FEW)
    images = one.images(TEXTS, seeds=[0, 5], patch=FEW)
    flat = [
        run.image.sel(patch=name, seed=seed).isel(prompt=i).values
        for name in FEW
        for i in range(2)
        for seed in (0, 5)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(flat, images, strict=True))


def test_the_pipeline_is_left_as_it_was_also_after_an_exception():
    pipe = pipeline("sd1")
    del pipe._progress_bar_config
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules()]
    before = np.asarray(Session(pipe, steps=2).images(TEXTS[0])[0])
    with pytest.raises(InterpError, match="touched nothing"):
        Session(pipe, steps=2).run("", patch=zero("prompt"), record=mass)
    assert not hasattr(pipe, "_progress_bar_config")
    assert not pipe.vae.use_slicing
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules()]
    assert hooks == after
    assert np.array_equal(before, np.asarray(Session(pipe, steps=2).images(TEXTS[0])[0]))


def test_silent_where_nobody_watches(one, capfd):
    one.images(TEXTS[0])
    assert capfd.readouterr() == ("", "")


def test_a_session_shows_itself(sd):
    assert "DDIMScheduler" in repr(sd)
    assert sd.pipe.scheduler.config.prediction_type in sd._repr_html_()
    evil = Session(sd.pipe, negative="<script>alert(1)</script>")._repr_html_()
    assert "<script" not in evil
    assert "&lt;script&gt;" in evil


def test_prompts_of_another_model_are_refused(one, sdxl):
    with pytest.raises(InterpError, match=r"\(77, 64\). This model takes \(77, 32\)"):
        one.run(encode(sdxl, TEXTS[0]))


def test_a_prompt_that_is_cut_says_so_once(one):
    with pytest.warns(UserWarning, match="was cut off") as caught:
        one.run(" ".join(["goat"] * 75) + " Antique Poster", seeds=[0, 1], patch=zero("eot"))
    cut = [str(warning.message) for warning in caught if "was cut off" in str(warning.message)]
    assert len(cut) == 1
    assert "'Antique Poster' was cut off" in cut[0]


def test_no_batch_is_larger_than_the_budget(one):
    each = bytes_per_image(one.pipe, one.height, one.width, guided=True) / GIB
    rows = []
    handle = one.pipe.unet.register_forward_pre_hook(lambda unet, args: rows.append(len(args[0])))
    for images in (1, 2, 5):
        Session(one.pipe, steps=1, budget=1.01 * images * each).trace(TEXTS, seeds=range(3))
    handle.remove()
    assert rows == [2] * 6 + [4] * 3 + [10, 2]


@pytest.mark.parametrize("trajectory", ["own", "clean"])
def test_a_batch_that_does_not_fit_comes_in_halves_and_later_ones_are_smaller(trajectory):
    """With the numbers of a machine whose memory suffices."""
    sd = Session(pipeline("sd1"), steps=2)
    asked = {"patch": {"none": None, "h": zero("pad")}, "record": mass, "trajectory": trajectory}
    whole = sd.run(TEXTS, range(3), **asked)
    most = 2 if trajectory == "own" else 4  # beside a row whose latents the others are given
    with scarce(most) as tried:
        found = sd.run(TEXTS, range(3), **asked)
        assert max(tried) > most
        tried.clear()
        sd.but(guidance=4.0).run(TEXTS[0], **asked)
        assert max(tried) <= most
    assert list(found.data_vars) == list(whole.data_vars)
    for name in found.data_vars:
        np.testing.assert_allclose(found[name], whole[name], atol=1e-5)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), RuntimeError("odd")])
def test_one_image_that_does_not_fit_is_an_error_as_is_any_other(error):
    sd = Session(pipeline("sd1"), steps=1)
    count = 1 if str(error) == "full" else 3
    with scarce(1, error) as tried, pytest.raises(RuntimeError, match=str(error)):
        sd.run(TEXTS[0], range(count))
    assert tried == [2 * count]
    assert hook_count(sd.pipe) == 0


def test_descriptors_are_made_of_fewer_images_where_memory_is_scarce():
    tried = []

    def described(images):
        tried.append(len(images))
        if len(images) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return images.mean((2, 3))

    images = torch.rand(5, 3, 4, 4)
    made = [part for _, part in halving(images, described, lambda: 32)]
    assert tried == [5, 2, 2, 1]
    assert torch.equal(torch.cat(made), images.mean((2, 3)))


@pytest.mark.parametrize("budget", [None, 1e-9])
def test_batches_do_not_decide_whether_a_patch_touched_something(one, budget):
    sd = Session(one.pipe, steps=1, budget=budget)
    assert sd.run(["", "goat"], patch=zero("prompt"), record=mass).sizes["prompt"] == 2
    with pytest.raises(InterpError, match=r"zero\('prompt'\) .* touched nothing in 4 runs"):
        sd.run("", seeds=[0, 1], patch={"prompt": zero("prompt"), "pad": zero("pad")})


def test_a_session_says_that_it_has_no_image_for_an_ip_adapter():
    """Loaded before or after the session was made; without it the same as before."""
    pipe = pipeline("sd1")
    session = Session(pipe, steps=1)
    before = session.run("a goat").image.values
    load_ip_adapter(pipe)
    with pytest.raises(InterpError, match="with an IP-Adapter.*Give it one"):
        session.run("a goat")
    with pytest.raises(InterpError, match="with an IP-Adapter"):
        session.trace("a goat", patch=zero("pad"))
    prompt = session.encode("a goat")
    with pytest.raises(InterpError, match="with an IP-Adapter"):
        session.guidance_at_start(prompt, prompt.embeds, session.noise(0))
    shown = Session(pipe, steps=1, ip_adapter_image_embeds=[torch.ones(2, 1, 8)])
    image = shown.run("a goat").image.values
    assert not np.array_equal(image, before)
    with zero("pad").on(pipe):
        call = {"ip_adapter_image_embeds": [torch.ones(2, 1, 8)], "output_type": "np"}
        generator = torch.Generator().manual_seed(0)
        plain = pipe("a goat", num_inference_steps=1, generator=generator, **call).images
    patched = shown.run("a goat", patch=zero("pad")).image.values[0, 0]
    assert np.array_equal(patched, (plain[0] * 255).round().astype(np.uint8))
    with pytest.raises(InterpError, match="with ip_adapter_image_embeds were asked for"):
        shown.guidance_at_start(prompt, prompt.embeds, shown.noise(0))
    pipe.unload_ip_adapter()
    assert np.array_equal(session.run("a goat").image.values, before)
