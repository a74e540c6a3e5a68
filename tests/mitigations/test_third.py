"""GUARD, PRSS and stable steps against denoising loops on the stock UNet and scheduler."""

import math

import numpy as np
import pytest
import torch

import interp as ip
from interp import mitigations
from interp.errors import InterpError
from interp.mitigations.third import rewordings
from tests.patch.test_attenuation import WrittenOut, cross_attention
from tests.patch.test_guidance import repelled

TITLE = "Classic Orchard Area Rug by Tom Meyer"
STEPS = 5


@pytest.fixture
def sd(sd1):
    return ip.Session(sd1, steps=STEPS)


def loop(pipe, text, predict, correct=lambda step, before, after: after, seed=0):
    """Denoising by hand: `predict(step, t, given, embeds)` makes the mixture."""
    (prompt,), (empty,) = ip.encode(pipe, [text]), ip.encode(pipe, [""])
    scheduler = pipe.scheduler
    scheduler.set_timesteps(STEPS)
    shape = (1, pipe.unet.config.in_channels, *2 * [pipe.unet.config.sample_size])
    z = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    for step, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            mixture = predict(step, t, z, torch.stack([empty.embeds, prompt.embeds]))
        z = correct(step, z, scheduler.step(mixture, t, z).prev_sample)
    return z


def test_attenuate_and_repel_is_three_rows_by_hand(sd):
    unet = sd.pipe.unet
    stock = dict(unet.attn_processors)
    places = {site.path: site.block for site in ip.sites(unet)}
    early = [unet.get_submodule(path) for path, block in places.items() if block != "up"]

    def predict(step, t, z, embeds):
        rows, text = torch.cat([z, z, z]), torch.cat([embeds, embeds[1:]])
        try:
            for layer in cross_attention(unet):
                layer.processor = WrittenOut(0.3, 0.1 if layer in early else None, first=2)
            u, c, low = unet(rows, t, encoder_hidden_states=text).sample.chunk(3)
        finally:
            unet.set_attn_processor(dict(stock))
        return u + 7.5 * (low - u) - 2 * math.cos(math.pi * step / (2 * STEPS)) * (c - u)

    found = sd.trace(TITLE, patch=mitigations.attenuate_and_repel(), half=False).final_latents
    by_hand = loop(sd.pipe, TITLE, predict)
    np.testing.assert_allclose(found.values[0], by_hand, atol=1e-3)


def test_reanchor_runs_the_rewording_with_least_guidance_away_from_the_prompt(sd):
    pipe, one = sd.pipe, (4 * 64 * 64 / sd.noise(0).numel()) ** 0.5
    pipe.scheduler.set_timesteps(STEPS)
    empty = sd.encode("").embeds

    def norm(text):
        rows = torch.cat([sd.noise(0)] * 2)
        embeds = torch.stack([empty, sd.encode(text).embeds])
        with torch.no_grad():
            u, c = pipe.unet(rows, pipe.scheduler.timesteps[0], embeds).sample.chunk(2)
        return one * float((c - u).norm())

    norms = {text: norm(text) for text in rewordings(TITLE)}
    high = 0.9 * norm(TITLE)
    found = mitigations.reanchor(0.1 * high, high, enough=0).rewrite(sd, sd.encode(TITLE), [0])
    assert found.prompt.text == min(norms, key=norms.get)
    assert len(norms) == 9
    first = next(iter(norms))
    enough = mitigations.reanchor(0.1 * high, high, enough=1.01 * norms[first])
    assert enough.rewrite(sd, sd.encode(TITLE), [0]).prompt.text == first
    calm = mitigations.reanchor(0, 2 * norm(TITLE)).rewrite(sd, sd.encode(TITLE), [0])
    assert calm.text == TITLE

    def published(step, m):
        s = min(7.5, 1 + 6.5 * max(0, one * m - 0.1 * high) / (0.9 * high))
        return s - 1

    shield = mitigations.reanchor(0.1 * high, high, enough=0)
    ours = sd.trace(TITLE, patch=shield, half=False).final_latents.values[0]
    donor = sd.encode(TITLE).embeds
    by_hand = repelled(pipe, found.prompt.text, lambda p: p.embeds, donor, published)
    np.testing.assert_allclose(ours, by_hand, atol=1e-3)


def test_stable_steps_cut_each_image_by_itself(sd):
    def plain(step, t, z, embeds):
        u, c = sd.pipe.unet(torch.cat([z, z]), t, encoder_hidden_states=embeds).sample.chunk(2)
        return u + 7.5 * (c - u)

    free = sd.trace(TITLE, [0, 1], half=False)
    path = np.concatenate([free.latents.values[0], free.final_latents.values[0][:, None]], 1)
    norms = np.linalg.norm(np.diff(path, axis=1).reshape(2, STEPS, -1), axis=2)
    caps = norms.mean(0)
    cut = []

    def correct(step, before, after):
        length = float((after - before).norm())
        cut.append(length > caps[step])
        return before + (after - before) * min(1.0, caps[step] / length)

    found = sd.trace(TITLE, [0, 1], mitigations.stable_steps(caps.tolist()), half=False)
    for seed in (0, 1):
        by_hand = loop(sd.pipe, TITLE, plain, correct, seed)
        np.testing.assert_allclose(found.final_latents.sel(seed=[seed])[0], by_hand, atol=1e-4)
    assert 0 < sum(cut) < len(cut)
    # What is usual of these images caps none of them.
    usual = mitigations.usual_steps(sd, [TITLE], 2, quantile=1.0)
    np.testing.assert_allclose(usual.most, norms.max(0), rtol=1e-4)
    with pytest.raises(InterpError, match="The session has 5 steps"):
        sd.run(TITLE, patch=mitigations.stable_steps([1.0]))
