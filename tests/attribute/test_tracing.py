"""Causal maps against brute force: hand-written hooks, and whole runs under each cell's patch."""

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import interp as ip
from interp import InterpError, Patch, attribute, sites
from interp.attribute.cells import Cell, inside, outside
from interp.attribute.resume import remembering, resumed, stations
from interp.denoiser.epsilon import alpha_bar, to_epsilon
from tests.conftest import hook_count
from tests.runs import latents

A, B = "antique church poster in Berlin", "a photo of a goat"
STEPS = 2


@pytest.fixture
def sd(pipe):
    return ip.Session(pipe, steps=STEPS, guidance=3.0)


@pytest.fixture
def one(sd1):
    return ip.Session(sd1, steps=STEPS, guidance=3.0)


def norm(data: xr.Dataset) -> xr.DataArray:
    return np.sqrt(((data.eps_c - data.eps_u) ** 2).sum(("channel", "latent_y", "latent_x")))


def brute_force(sd: ip.Session, a: ip.Prompt, edited: torch.Tensor, layer: str, head: int) -> list:
    """`|eps_c - eps_u|` at each clean step, the values of one head made of edited embeddings."""
    site = next(site for site in sites(sd.pipe.unet) if site.name == layer)
    attention = sd.pipe.unet.get_submodule(site.path)
    width = attention.to_v.out_features // site.heads

    def edit(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        new = output.clone()
        columns = slice(head * width, (head + 1) * width)
        new[-1, :, columns] = module.forward(edited)[:, columns]
        return new

    trace = sd.trace(a, half=False).isel(prompt=0, seed=0)
    added = None
    if a.pooled is not None:
        size = (sd.height, sd.width)
        time = torch.tensor([[*size, 0, 0, *size]] * 2, dtype=torch.float32)
        pooled = torch.stack([sd.unconditional.pooled, a.pooled])
        added = {"text_embeds": pooled, "time_ids": time}
    found = []
    for step in range(STEPS):
        given = torch.tensor(trace.latents[step].values)
        t = torch.tensor(float(trace.timestep[step]))
        handle = attention.to_v.register_forward_hook(edit)
        with torch.no_grad():
            text = torch.stack([sd.unconditional.embeds, a.embeds])
            out = sd.pipe.unet(
                torch.stack([given] * 2), t, encoder_hidden_states=text, added_cond_kwargs=added
            ).sample
        handle.remove()
        abar, kind = (
            alpha_bar(sd.pipe.scheduler, float(t)),
            sd.pipe.scheduler.config.prediction_type,
        )
        eps_u, eps_c = to_epsilon(out, torch.stack([given] * 2), abar, kind)
        found.append(float((eps_c - eps_u).norm()))
    return found


def test_cells_are_those_of_hand_written_hooks(sd) -> None:
    a, b = sd.encode([A, B])
    patch = ip.swap("pad", b, "nearest")
    data = attribute.causal_trace(sd, a, patch, heads="all", side=("k", "v"))
    layers = {site.name: site for site in sites(sd.pipe.unet)}
    for layer in ("down.0.0", "mid.0", list(layers)[-1]):
        head = layers[layer].heads - 1
        expected = brute_force(sd, a, patch.embeds(a), layer, head)
        cells = data["value"].sel(layer=layer, head=head, side="v")[0, 0]
        np.testing.assert_allclose(cells, expected, rtol=1e-5)
        assert abs(cells - data.clean[0, 0]).max() > 1e-4
    absent = [
        (site.name, site.heads) for site in layers.values() if site.heads < data.sizes["head"]
    ]
    for layer, heads in absent:
        assert bool(data["value"].sel(layer=layer).isel(head=slice(heads, None)).isnull().all())
    assert int(data["value"].isnull().sum()) == 2 * STEPS * sum(
        data.sizes["head"] - heads for _, heads in absent
    )


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["necessary", "sufficient"])
def test_cells_are_whole_runs_on_the_clean_trajectory(one, direction: str) -> None:
    a, b = one.encode([A, B])
    patches = {
        "swap": ip.swap("pad", b, "nearest") & ip.zero("eot", layers="up", heads=1),
        "mask": ip.mask("pad", layers=["down", "up.1"]) & ip.scale("sot", 2.0),
        "late": ip.zero(("eot", "pad"), steps=slice(1, None)),
    }
    seeds = [0, 4]
    data = attribute.causal_trace(
        one, a, patches, side=("k", "kv"), seeds=seeds, direction=direction, window=(2, 1)
    )
    every = sites(one.pipe.unet)
    for name, patch in patches.items():
        for layer, side in ((1, "kv"), (3, "k"), (len(every) - 1, "kv")):
            around = every[layer : layer + 2]
            cell = Cell(frozenset(site.name for site in around), side)
            part = {"necessary": inside, "sufficient": outside}[direction](
                patch, cell, every, STEPS
            )
            run = one.trace(a, seeds, {"x": part or None}, trajectory="clean", half=False)
            np.testing.assert_allclose(
                data["value"].sel(patch=name, side=side).isel(layer=layer)[0],
                norm(run)[0, 0],
                rtol=1e-5,
            )
    runs = one.trace(a, seeds, {"none": None, **patches}, trajectory="clean", half=False)
    np.testing.assert_allclose(data.clean, norm(runs)[0], rtol=1e-5)
    np.testing.assert_allclose(data.corrupted, norm(runs)[1:], rtol=1e-5)


def test_a_cell_that_is_everything_is_the_whole_patch(sd) -> None:
    patch = ip.zero(("eot", "pad"))
    count = len(sites(sd.pipe.unet))
    data = attribute.causal_trace(
        sd, A, patch, layers=count // 2, window=(2 * count, 1), direction="both"
    )
    assert abs(data.effect.sel(direction="necessary")).max() < 1e-4
    assert abs(data.effect.sel(direction="sufficient") - 1).max() < 1e-4


def test_total_effects_are_runs_of_their_own(one) -> None:
    a = one.encode(A)
    patch = ip.zero("pad")
    value = attribute.similarity(ip.metrics.pixel_l2)
    data = attribute.causal_trace(
        one, a, patch, layers="up", value=value, trajectory="own", direction="both"
    )
    runs = {"none": None, "all": patch, "one": ip.zero("pad", layers="up.0.1", steps=1)}
    run = one.run(a, patch=runs, images=True)
    expected = value(run).values[:, 0, 0]
    found = data["value"].sel(direction="necessary", layer="up.0.1", step=1).item()
    np.testing.assert_allclose([0, data.corrupted.item(), found], expected, rtol=1e-3)
    whole = attribute.causal_trace(
        one, a, patch, layers=2, steps=1, trajectory="own", direction="both", window=(99, 99)
    )
    # steps=1 alone is a window of one step: what is left is the first.
    first = one.trace(a, patch={"x": ip.zero("pad", steps=0)}, half=False)
    np.testing.assert_allclose(
        whole["value"].sel(direction="sufficient").item(), norm(first).mean(), rtol=1e-5
    )


def test_a_window_of_all_layers_and_steps_is_the_global_patch(one) -> None:
    data = attribute.causal_trace(
        one, A, ip.zero("pad"), layers=3, trajectory="own", direction="both", window=(99, 99)
    )
    np.testing.assert_allclose(data.effect.sel(direction="necessary"), 0, atol=1e-4)
    np.testing.assert_allclose(data.effect.sel(direction="sufficient"), 1, atol=1e-4)


def test_windows_of_steps_are_means_on_the_clean_trajectory(one) -> None:
    cells = attribute.causal_trace(one, A, ip.zero("pad"), layers="mid")
    both = attribute.causal_trace(one, A, ip.zero("pad"), layers="mid", window=(1, 5))
    mean = cells["value"].mean("step")
    np.testing.assert_allclose(
        both["value"],
        xr.broadcast(mean, both["value"])[0].transpose(*both["value"].dims),
        rtol=1e-6,
    )
    ratio = (mean - cells.corrupted.mean("step")) / (cells.clean - cells.corrupted).mean("step")
    np.testing.assert_allclose(both.effect.isel(step=0), ratio, rtol=1e-4)


def test_inside_and_outside_make_the_whole(one) -> None:
    patch = ip.zero("pad", 0.5) & ip.scale("eot", 2.0, layers="up", heads=0) & ip.mask("prompt")
    every = sites(one.pipe.unet)
    cell = Cell(frozenset({"up.0.0", "down.1.0"}), "v", frozenset({0}), frozenset({1}))
    parts = [part(patch, cell, every, STEPS) for part in (inside, outside)]
    assert all(part.operations for part in parts)
    with patch.on(one.pipe):
        whole = latents(one.pipe, A)
    with parts[0].on(one.pipe), parts[1].on(one.pipe):
        assert torch.allclose(latents(one.pipe, A), whole, atol=1e-6)
    assert inside(patch, Cell(frozenset()), every, STEPS) == Patch()


def test_rows_are_counted(one) -> None:
    """By hand: the trace, one remembered row per point, and for every cell what comes after it."""
    data = attribute.causal_trace(one, A, ip.zero("pad"), seeds=[0, 1])
    layers = len(sites(one.pipe.unet))
    points = 2 * STEPS
    naive = (layers * STEPS + 2) * 2 * points
    assert data.attrs["unet_rows_naive"] == naive
    fixed = 2 * points + points
    assert fixed + 0.3 * (layers + 1) * points < data.attrs["unet_rows"]
    assert data.attrs["unet_rows"] < fixed + 0.9 * (layers + 1) * points


def test_a_resumed_call_is_the_whole_call(sd) -> None:
    """Memory of one row, taken up at every station with the same row: nothing may differ."""
    unet, a = sd.pipe.unet, sd.encode(A)
    points = attribute.points.clean_points(sd, a, [0], steps=0)
    before = [dict(vars(module)) for module in unet.modules()]
    with torch.no_grad(), remembering(unet) as memory:
        whole = attribute.points.predict(sd, points, a.embeds)
    assert set(memory.order) == set(stations(unet))
    for first in range(len(memory.order)):
        with torch.no_grad(), resumed(unet, memory, first, copies=2):
            again = attribute.points.predict(sd, points, a.embeds, copies=2)
        torch.testing.assert_close(again, whole.expand_as(again), rtol=0, atol=1e-5)
    with pytest.raises(ZeroDivisionError), resumed(unet, memory, 3, copies=1):
        1 / 0  # noqa: B018
    after = [dict(vars(module)) for module in unet.modules()]
    assert [list(one) for one in before] == [list(one) for one in after]
    assert hook_count(sd.pipe) == hook_count(sd.pipe)


def test_small_memory_changes_nothing(one) -> None:
    patches = {"a": ip.zero("pad"), "b": ip.zero("eot")}
    small = ip.Session(one.pipe, steps=STEPS, guidance=3.0, budget=1e-9)
    kwargs = {"seeds": [0, 1], "direction": "both"}
    xr.testing.assert_allclose(
        attribute.causal_trace(one, A, patches, **kwargs)["value"],
        attribute.causal_trace(small, A, patches, **kwargs)["value"],
        rtol=1e-5,
    )


def test_what_can_not_be_traced_is_refused(one) -> None:
    pad = ip.zero("pad")
    with pytest.raises(InterpError, match="Use uncond=False"):
        attribute.causal_trace(one, A, ip.repad("!"))
    with pytest.raises(InterpError, match="Steps are evaluated one by one"):
        attribute.causal_trace(one, A, pad, value=attribute.guidance(steps=1))
    with pytest.raises(InterpError, match="It is 'clean'"):
        attribute.causal_trace(one, A, pad, trajectory="fast")
    with pytest.raises(InterpError, match="Directions are"):
        attribute.causal_trace(one, A, pad, direction="backwards")
    with pytest.raises(InterpError, match="heads=\\[7\\]"):
        attribute.causal_trace(one, A, pad, heads=[7])
    with pytest.raises(InterpError, match="It touches none of the prompt's positions"):
        attribute.causal_trace(one, "goat " * 75, pad)
    with pytest.raises(InterpError, match="guidance 1"):
        attribute.causal_trace(ip.Session(one.pipe, steps=2, guidance=1), A, pad)
