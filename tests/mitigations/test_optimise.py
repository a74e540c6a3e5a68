"""Optimised embeddings: the loss is the traced guidance, and each prompt stops at its target."""

import numpy as np
import torch

from interp import mitigations
from tests.mitigations.conftest import TEXTS


def test_optimise_embedding_lowers_the_traced_guidance_and_keeps_the_first_token(sd):
    prompt, seeds = sd.encode(TEXTS[0]), [0, 1]
    wen = mitigations.optimise_embedding(target=0, iterations=3)
    found = wen.rewrite(sd, prompt, seeds)

    def traced(prompt):
        trace = sd.trace(prompt, seeds=seeds, half=False).isel(prompt=0, step=0)
        difference = (trace.eps_c - trace.eps_u) ** 2
        pixels = difference.sizes["channel"] * difference.sizes["latent_y"] ** 2
        return (difference.sum(["channel", "latent_y", "latent_x"]) * 4 * 64 * 64 / pixels) ** 0.5

    np.testing.assert_allclose(wen.norms(sd, prompt, seeds), traced(prompt), rtol=1e-4)
    np.testing.assert_allclose(wen.norms(sd, found, seeds), traced(found), rtol=1e-4)
    assert traced(found).mean() < traced(prompt).mean()
    assert torch.equal(found.embeds[0], prompt.embeds[0])
    assert not torch.equal(found.embeds[1:], prompt.embeds[1:])
    assert all(p.grad is None for p in sd.pipe.unet.parameters())


def test_optimise_embedding_stops_at_its_target_for_each_prompt(one):
    prompt, seeds = one.encode(TEXTS[0]), [0, 1]
    start = mitigations.optimise_embedding().norms(one, prompt, seeds)
    above = mitigations.optimise_embedding(target=float(start.mean()) * 1.01)
    assert above.rewrite(one, prompt, seeds) is prompt
    # The mean over seeds decides, so the same prompt four times is the prompt once.
    wen = mitigations.optimise_embedding(target=0, iterations=2)
    once, thrice = wen.rewrite(one, prompt, [0]), wen.rewrite(one, prompt, [0, 0, 0])
    torch.testing.assert_close(once.embeds, thrice.embeds, atol=1e-4, rtol=1e-4)


def test_optimise_embedding_stops_for_each_prompt_by_itself(one):
    prompts, seeds = one.encode(TEXTS), [0, 1]
    start = [float(mitigations.optimise_embedding().norms(one, p, seeds).mean()) for p in prompts]
    near, far = sorted(range(2), key=start.__getitem__)
    wen = mitigations.optimise_embedding(target=sum(start) / 2, iterations=2)
    assert wen.rewrite(one, prompts[near], seeds) is prompts[near]
    edited, plain = (one.run(prompts, seeds, patch=patch).image for patch in (wen, None))
    assert np.array_equal(edited[near], plain[near])
    assert not np.array_equal(edited[far], plain[far])


def test_the_target_of_optimise_embedding_is_that_of_one_image(one):
    prompt, wen = one.encode(TEXTS[0]), mitigations.optimise_embedding()
    together, alone = wen.norms(one, prompt, [0, 1, 0]), wen.norms(one, prompt, [0])
    assert together.shape == (3,)
    assert torch.equal(together[[0, 2]], alone.expand(2))
