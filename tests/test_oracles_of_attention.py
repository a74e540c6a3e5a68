"""What is recorded is the attention that was used, and masks and scales are what they say."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor

import interp as ip
from interp import encode, record, sites
from interp.denoiser.hooks import Hooks
from tests.oracles import KERNELS, LONG, some_patch
from tests.runs import PROCESSORS, TEXTS, kernels, latents, processor


def mass_of(seen: Sequence[Tensor], categories: Tensor) -> Tensor:
    """Mass per category of probabilities `[row, head, query, key]`."""
    codes = rearrange(categories, "row key -> row 1 key")
    return torch.stack(
        [torch.where(codes == code, seen.mean(2), 0).sum(-1) for code in range(4)], dim=-1
    )


@pytest.mark.parametrize("kernel", PROCESSORS)
@pytest.mark.parametrize("kind", ["none", "embeddings", "heads", "mask"])
def test_recorded_mass_is_that_of_the_kernel(pipe, monkeypatch, kernel: str, kind: str) -> None:
    prompts = encode(pipe, [*TEXTS, LONG])
    patch = some_patch(kind, prompts[2])
    with (
        processor(pipe, kernel),
        kernels(pipe, monkeypatch) as seen,
        patch.on(pipe),
        record(pipe) as log,
    ):
        latents(pipe, TEXTS, steps=2)
    data = log.dataset()
    used = list(seen)
    layers = sites(pipe.unet)
    assert len(used) == 2 * len(layers)
    cond = torch.stack([prompt.category for prompt in prompts[:2]])
    for place, probabilities in enumerate(used):
        step, layer = divmod(place, len(layers))
        heads = slice(layers[layer].heads)
        expected = mass_of(probabilities[2:], cond)
        np.testing.assert_allclose(data.mass[:, 0, step, layer, heads], expected, atol=1e-6)
        empty = encode(pipe, "")[0].category.expand(2, -1)
        other = mass_of(probabilities[:2], empty)
        np.testing.assert_allclose(data.mass_uncond[:, 0, step, layer, heads], other, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("none", torch.float32),
        ("embeddings", torch.float32),
        ("heads", torch.bfloat16),
        ("mask", torch.float32),
    ],
)
def test_mass_sums_to_one(request, make_pipe, pipe, kind: str, dtype: torch.dtype) -> None:
    pipe = make_pipe(request.node.callspec.params["pipe"], dtype)
    b = encode(pipe, LONG)[0]
    with some_patch(kind, b).on(pipe), record(pipe, ip.mass, ip.token_mass) as log:
        latents(pipe, TEXTS)
    data = log.dataset()
    for name, axis in (("mass", "category"), ("token_mass", "position")):
        for suffix in ("", "_uncond"):
            total = data[name + suffix].sum(axis, skipna=False)
            assert float(abs(total - 1).max()) < 1e-5


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_a_masked_category_has_no_mass(
    request, make_pipe, pipe, kernel: str, dtype: torch.dtype
) -> None:
    pipe = make_pipe(request.node.callspec.params["pipe"], dtype)
    with (
        processor(pipe, kernel),
        ip.mask(("eot", "pad"), layers=["down", "up"]).on(pipe),
        record(pipe) as log,
    ):
        latents(pipe, TEXTS)
    mass = log.dataset().mass
    masked = mass.sel(category=["eot", "pad"])
    assert float(masked.where(mass.block != "mid", 0).max()) == 0
    assert float(masked.where(mass.block == "mid").min()) > 0


def test_scaling_a_key_is_scaling_its_logit(pipe, monkeypatch) -> None:
    factor = 1.7
    with kernels(pipe, monkeypatch) as seen, ip.scale("sot", factor).on(pipe):
        latents(pipe, steps=1)
    first = seen[0][1]
    with kernels(pipe, monkeypatch) as seen:
        latents(pipe, steps=1)
    # By hand, because probabilities give logits only up to a constant, which scaling changes.
    layer = pipe.unet.get_submodule(sites(pipe.unet)[0].path)
    queries: list[Tensor] = []
    with Hooks() as hooks:
        hooks.after(layer.to_q, lambda module, args, kwargs, out: queries.append(out[1]))
        latents(pipe, steps=1)
    (a,) = encode(pipe, TEXTS[0])
    with torch.no_grad():
        keys = layer.to_k(a.embeds)
    split = "n (h d) -> h n d"
    q = rearrange(queries[0], split, h=layer.heads)
    k = rearrange(keys, split, h=layer.heads)
    logits = torch.einsum("hnd,htd->hnt", q, k) * layer.scale
    assert torch.allclose(logits.softmax(-1), seen[0][1], atol=1e-6)
    logits[..., 0] *= factor
    assert torch.allclose(logits.softmax(-1), first, atol=1e-6)
