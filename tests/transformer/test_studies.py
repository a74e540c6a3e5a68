"""What is built on sessions of SD 3, FLUX and PixArt, against runs of stock pipelines by hand."""

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import interp as ip
from interp import mitigations
from interp.attribute.players import named_players
from interp.attribute.points import clean_points
from interp.denoiser.hooks import hookable
from tests.transformer.test_sessions import images, pixels, predictions
from tests.transformers import LENGTH, TEXTS, call, given, prompts, session, shared


def brightness(data: xr.Dataset) -> xr.DataArray:
    """A value of images that needs no unconditional rows."""
    return data.image.astype(float).mean(["pixel_y", "pixel_x", "rgb"])


def is_flux(pipe: Any) -> bool:
    return "Flux" in type(pipe).__name__


def test_a_sweep_is_the_loop_over_its_cells_and_is_continued(family, tmp_path):
    pipe = family
    _, b, _ = prompts(pipe)
    sd = session(pipe)
    patches = {"zero": ip.zero("prompt"), "swap": ip.swap("eot", donor=b)}
    ask: dict[str, Any] = {"seeds": 1, "store": tmp_path / "s.zarr", "record": ip.mass}
    calls: list[int] = []
    handle = pipe.transformer.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        ip.sweep(sd, TEXTS[:2], patches, **ask, images=True)
        made = len(calls)
        grid = ip.sweep(sd.but(), TEXTS[:2], patches, **ask, images=True).load()
        assert len(calls) == made > 0
    finally:
        handle.remove()
    assert list(grid.patch.values) == ["none", "zero", "swap"]
    for row, text in enumerate(TEXTS[:2]):
        (prompt,) = ip.encode(pipe, text, max_sequence_length=LENGTH)
        for name, patch in {"none": None, **patches}.items():
            embeds = prompt.embeds if patch is None else patch.embeds(prompt)
            more = {"guidance_scale": sd.guidance, "output_type": "np"}
            hand = pixels(given(pipe, prompt, embeds, **more))[0]
            cell = grid.image.sel(patch=name, prompt=row, seed=0).values
            assert abs(cell.astype(int) - hand.astype(int)).max() <= 1
    with pytest.raises(ip.InterpError, match="steps is 2 there and 3 here"):
        ip.sweep(sd.but(steps=3), TEXTS[:2], patches, **ask, images=True)


def test_shapley_values_sum_to_the_effect_of_a_run_by_hand(family):
    pipe = family
    a, b, _ = prompts(pipe)
    sd = session(pipe)
    players = {"words": "t5.prompt", "end": ("t5.eot",), "pads": "t5.pad"}
    if a.pooled is not None:
        players["pooled"] = "pooled"
        assert "pooled" in named_players(None, [a], None)
    phi = ip.attribute.shapley(sd, a, baseline=b, value=brightness, players=players)
    worth = phi.worth.isel(prompt=0, seed=0)
    total = float(worth.sel(coalition="all") - worth.sel(coalition="none"))
    np.testing.assert_allclose(phi.phi.isel(prompt=0, seed=0).sum(), total, atol=1e-5)
    embeds = ip.swap(("t5.prompt", "t5.eot", "t5.pad"), donor=b, align="nearest").embeds(a)
    more = {} if b.pooled is None else {"pooled_prompt_embeds": b.pooled[None]}
    more |= {"guidance_scale": sd.guidance, "output_type": "np"}
    for name, hand in (
        ("none", given(pipe, a, embeds, **more)),
        ("all", call(pipe, TEXTS[0], guidance_scale=sd.guidance, output_type="np")),
    ):
        np.testing.assert_allclose(
            worth.sel(coalition=name), pixels(hand)[0].astype(float).mean(), atol=0.05
        )
    if "PixArt" in type(pipe).__name__:
        # Its pads are masked.
        assert abs(float(phi.phi.sel(player="pads").squeeze())) < 0.05
        assert "sot" not in named_players(None, [a], None)


def test_a_causal_traces_cell_is_a_run_by_hand(family):
    pipe = family
    a, b, _ = prompts(pipe)
    sd = session(pipe)
    layer = hookable(pipe)[1].name
    patch = ip.swap(("prompt", "eot"), donor=b, align="nearest")
    trace = ip.attribute.causal_trace(
        sd, a, patch, layers=layer, steps=[1], value=brightness, trajectory="own"
    )
    here = ip.swap(("prompt", "eot"), donor=b, align="nearest", layers=layer, steps=1)
    more = {"guidance_scale": sd.guidance, "output_type": "np"}
    with here.on(pipe):
        cell = call(pipe, TEXTS[0], **more)
    whole = given(pipe, a, patch.embeds(a), **more)
    for name, hand in (
        ("value", cell), ("corrupted", whole), ("clean", call(pipe, TEXTS[0], **more)),
    ):  # fmt: skip
        expected = pixels(hand)[0].astype(float).mean()
        np.testing.assert_allclose(trace[name].squeeze(), expected, atol=0.05)
    if "PixArt" not in type(pipe).__name__:
        with pytest.raises(ip.InterpError, match="from block to block"):
            ip.attribute.causal_trace(sd, a, patch, direction="sufficient", trajectory="own")


@pytest.mark.parametrize("kind", ["sd3", "pixart", "dev"])
def test_a_direct_effect_is_that_on_the_clean_trajectory(kind):
    pipe = shared(kind)
    a, b, _ = prompts(pipe)
    sd = session(pipe, **({"true_cfg_scale": 2.0} if kind == "dev" else {}))
    layer = hookable(pipe)[1].name
    patch = ip.swap("eot", donor=b)
    trace = ip.attribute.causal_trace(sd, a, patch, layers=layer, steps=[1])
    cells = {"none": None, "cell": ip.swap("eot", donor=b, layers=layer), "whole": patch}
    run = sd.trace(a, patch=cells, trajectory="clean", half=False).isel(prompt=0, seed=0, step=1)
    eps_u = run.eps_u.sel(patch="none")
    norms = {name: float(((run.eps_c.sel(patch=name) - eps_u) ** 2).sum() ** 0.5) for name in cells}
    for variable, name in (("value", "cell"), ("clean", "none"), ("corrupted", "whole")):
        np.testing.assert_allclose(trace[variable].squeeze(), norms[name], rtol=1e-4)


def test_detectors_of_noise_are_worked_out_from_the_stock_predictions(family):
    pipe = family
    sd = session(pipe, steps=3)
    if is_flux(pipe):
        with pytest.raises(ip.InterpError, match="true_cfg_scale"):
            ip.detect.guidance_norm(sd.trace(TEXTS[0]))
        with pytest.raises(ip.InterpError, match="true_cfg_scale"):
            ip.detect.scan(sd, TEXTS[:1])
        return
    flow = "PixArt" not in type(pipe).__name__
    norms = []
    for step, (_, output) in enumerate(
        predictions(pipe, TEXTS[0], guidance_scale=sd.guidance, steps=3)
    ):
        uncond, cond = images(pipe, output)
        signal = 1 - float(pipe.scheduler.timesteps[step]) / 1000 if flow else 1
        norms.append(float(signal * (cond - uncond).norm()))
    trace = sd.trace(TEXTS[0], half=False)
    np.testing.assert_allclose(
        ip.detect.guidance_norm(trace).squeeze(), norms, rtol=1e-4, atol=1e-5
    )
    found = ip.detect.scan(sd, TEXTS[:1], seeds=1)
    assert list(found.data_vars) == list(ip.detect.defined(pipe))
    assert all(np.isfinite(score).all() for score in found.data_vars.values())
    np.testing.assert_allclose(found["guidance norm"].squeeze(), np.mean(norms), rtol=1e-2)
    if flow:
        assert norms[0] == 0
        with pytest.raises(ip.InterpError, match="no image in the latents yet"):
            ip.detect.guidance_norm(trace, first=1)
        recorded = sd.trace(TEXTS[0], record=ip.token_mass)
        with pytest.raises(ip.InterpError, match="is no distribution"):
            ip.detect.late_entropy(recorded)


NOISE = "pure noise"
LINEAR = "keys and values are not linear"
REFUSED = {
    "sd3": {
        "rescale_sot": LINEAR, "dynamic_transition": "no first minimum",
        "optimise_embedding": NOISE, "adjust_noise": NOISE, "optimise_noise": NOISE,
    },
    "dev": {
        "rescale_sot": LINEAR, "dynamic_transition": "no first minimum",
        "static_transition": "runs without guidance", "optimise_embedding": NOISE,
        "adjust_noise": NOISE, "optimise_noise": NOISE,
    },
    "pixart": {"rescale_sot": LINEAR},
}  # fmt: skip
MITIGATIONS = {
    "repad_zero_eot": mitigations.repad_zero_eot(),
    "zero_pads": mitigations.zero_pads(),
    "embedding_noise": mitigations.embedding_noise(),
    "random_numbers": mitigations.random_numbers(1),
    "rescale_sot": mitigations.rescale_sot(),
    "static_transition": mitigations.static_transition(1),
    "dynamic_transition": mitigations.dynamic_transition(),
    "optimise_embedding": mitigations.optimise_embedding(target=0, iterations=1),
    "adjust_noise": mitigations.adjust_noise(iterations=1, unguided=0),
    "optimise_noise": mitigations.optimise_noise(target=0, iterations=1),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_mitigations_run_or_are_refused_by_name(kind):
    sd = session(shared(kind))
    plain = sd.trace(TEXTS[0], half=False).final_latents
    for name, mitigation in MITIGATIONS.items():
        why = REFUSED[kind].get(name)
        if why is not None:
            with pytest.raises(ip.InterpError, match=why):
                sd.trace(TEXTS[0], patch=mitigation)
            continue
        edited = sd.trace(TEXTS[0], patch=mitigation, half=False).final_latents
        # PixArt's pads are masked.
        nothing = kind == "pixart" and name == "zero_pads"
        assert np.allclose(edited, plain, atol=1e-6) == nothing, name


def test_what_rests_on_a_unet_is_refused_by_name(family):
    pipe = family
    sd = session(pipe)
    a = sd.encode(TEXTS[0])
    for ask in (
        lambda: ip.attribute.attribution_patching(sd, a, ip.zero("eot")),
        lambda: ip.attribute.tokens(sd, a),
        lambda: ip.attribute.activations(sd, a),
        lambda: ip.detect.Case(sd, a),
        lambda: ip.attribute.shapley(sd, a, players="words"),
    ):
        with pytest.raises(ip.InterpError, match=f"{type(pipe).__name__}|CLIP alone"):
            ask()


def test_points_of_the_first_step_are_those_of_a_run():
    pipe = shared("pixart")
    sd = session(pipe)
    a = sd.encode(TEXTS[0])
    trace = sd.trace(a, half=False).isel(prompt=0, seed=0, step=0)
    points = clean_points(sd, a, [0], 0)
    torch.testing.assert_close(points.eps_c[0], torch.tensor(trace.eps_c.values))
    torch.testing.assert_close(points.eps_u[0], torch.tensor(trace.eps_u.values))
