"""What must always hold: equalities between two ways of computing the same thing.

Over pipelines shaped like SD 1, SD 2 and SDXL, over attention kernels, and in bfloat16 where
precision matters.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import interp as ip
from interp import Patch, apply, encode, record, sites
from interp.denoiser.hooks import Hooks
from interp.text.encoding import encoders
from tests.conftest import hook_count
from tests.oracles import KERNELS, LONG, predictions, some_patch
from tests.runs import PROCESSORS, TEXTS, from_embeds, latents, processor


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_identity_patches_change_nothing(
    request, make_pipe, pipe, kernel: str, dtype: torch.dtype
) -> None:
    pipe = make_pipe(request.node.callspec.params["pipe"], dtype)
    (a,) = encode(pipe, TEXTS[0])
    with processor(pipe, kernel):
        plain = latents(pipe)
        for patch in (
            Patch() & ip.zero("pad", fraction=0),
            ip.swap(ip.CATEGORIES, a) & ip.noise("pad", std=0.0, seed=0),
            ip.swap("pad", a, side="k") & ip.swap("eot", a, heads=0, layers="up", steps=1),
        ):
            with patch.on(pipe):
                assert torch.equal(latents(pipe), plain), patch


@pytest.mark.parametrize(("kernel", "dtype"), KERNELS)
def test_embedding_patch_equals_key_and_value_patch_on_all_heads(
    request, make_pipe, pipe, kernel: str, dtype: torch.dtype
) -> None:
    pipe = make_pipe(request.node.callspec.params["pipe"], dtype)
    (b,) = encode(pipe, LONG)
    with processor(pipe, kernel):
        for verb in (
            lambda **where: ip.swap("pad", b, "nearest", **where) & ip.zero("prompt", **where),
            lambda **where: ip.copy("eot", to="pad", steps=1, **where),
        ):
            with verb().on(pipe):
                whole = latents(pipe)
            with verb(side="v").on(pipe), verb(side="k").on(pipe):
                assert torch.equal(latents(pipe), whole)


def test_keys_and_values_of_heads_are_those_of_edited_embeddings(pipe) -> None:
    """The projections that the kernel is given, head by head, against plain slicing."""
    a, b = encode(pipe, [TEXTS[0], LONG])
    site = next(site for site in sites(pipe.unet) if site.heads > 1)
    layer = pipe.unet.get_submodule(site.path)
    patch = ip.swap("pad", b, "nearest", side="k", heads=1, layers=site.name)
    edited = ip.swap("pad", b, "nearest").embeds(a)
    kept: dict[str, list[Tensor]] = {"k": [], "v": []}
    with patch.on(pipe), Hooks() as hooks:
        latents(pipe, steps=1)
        hooks.after(layer.to_k, lambda m, args, kwargs, out: kept["k"].append(out[1]))
        hooks.after(layer.to_v, lambda m, args, kwargs, out: kept["v"].append(out[1]))
        latents(pipe, steps=1)
    with torch.no_grad():
        keys, values = layer.to_k(a.embeds), layer.to_v(a.embeds)
        new = layer.to_k(edited)
    width = keys.shape[-1] // site.heads
    expected = keys.clone()
    expected[:, width : 2 * width] = new[:, width : 2 * width]
    assert torch.allclose(kept["k"][0], expected, atol=1e-6)
    assert torch.allclose(kept["v"][0], values, atol=1e-6)
    assert not torch.allclose(keys, expected, atol=1e-3)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("kind", ["embeddings", "heads", "mask"])
def test_conditional_patches_leave_unconditional_rows_alone(pipe, images: int, kind: str) -> None:
    b = encode(pipe, LONG)[0]
    for texts in (TEXTS[0], TEXTS):
        plain = predictions(pipe, Patch(), texts, images)
        patched = predictions(pipe, some_patch(kind, b), texts, images)
        half = len(plain) // 2
        assert torch.equal(patched[:half], plain[:half])
        moved = (patched[half:] - plain[half:]).flatten(1).abs().amax(1)
        assert (moved > 1e-4).all()


def test_unconditional_only_patches_leave_conditional_rows_alone(pipe) -> None:
    plain = predictions(pipe, Patch(), TEXTS, 2, negative_prompt=["bad", "worse"])
    for patch in (ip.mask("pad", uncond="only"), ip.scale("sot", 2.0, uncond="only", heads=0)):
        patched = predictions(pipe, patch, TEXTS, 2, negative_prompt=["bad", "worse"])
        assert torch.equal(patched[4:], plain[4:])
        assert ((patched[:4] - plain[:4]).flatten(1).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_a_batch_equals_the_loop_over_its_rows(pipe, guidance: float) -> None:
    a, b, empty = encode(pipe, [TEXTS[0], LONG, ""])
    rows = [
        (a, None),
        (a, ip.zero("pad")),
        (b, ip.mask("eot", heads=0) & ip.scale("sot", 1.3)),
        (a, ip.swap("pad", b, "nearest", side="v", layers="up", steps=0)),
        (b, ip.repad("<|endoftext|>") & ip.zero("eot", uncond=True)),
    ]
    noise = torch.randn(5, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    negative = None if guidance == 1 else empty
    call = {"guidance_scale": guidance}

    def run(chosen: slice) -> tuple[Tensor, Any]:
        prompts = [prompt for prompt, _ in rows[chosen]]
        with (
            apply(pipe, rows[chosen], negative=empty),
            record(pipe, tokens=prompts, negative=empty) as log,
        ):
            images = from_embeds(
                pipe,
                [prompt.embeds for prompt in prompts],
                prompts,
                negative,
                latents=noise[chosen],
                **call,
            )
        return images, log.dataset().mass

    together, mass = run(slice(None))
    assert mass.sizes["prompt"] == 5
    for place in range(5):
        alone, alone_mass = run(slice(place, place + 1))
        assert torch.allclose(together[place], alone[0], atol=1e-4)
        np.testing.assert_allclose(mass[place], alone_mass[0], atol=1e-5)


def test_a_described_row_is_patched_like_a_text_prompt(pipe) -> None:
    (a,) = encode(pipe, TEXTS[0])
    patch = ip.zero("pad") & ip.scale("sot", 1.2)
    with patch.on(pipe):
        by_text = latents(pipe)
    with apply(pipe, [(a, patch)]):
        assert torch.equal(latents(pipe), by_text)
    with patch.on(pipe, tokens=a):
        assert torch.equal(latents(pipe), by_text)


EDITS = ("zero", "zero some", "copy", "mean", "swap", "repad", "composed")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, torch.float32) for name in EDITS), ("composed", torch.bfloat16)],
)
def test_embedding_patches_give_the_images_of_hand_made_embeddings(
    request, make_pipe, pipe, name: str, dtype: torch.dtype
) -> None:
    """Plain diffusers, called with edited `prompt_embeds`, is the oracle: bit for bit."""
    pipe = make_pipe(request.node.callspec.params["pipe"], dtype)
    a, b, empty = encode(pipe, [TEXTS[0], LONG, ""])
    bang = encode(pipe, TEXTS[0], pad_token="!")[0]
    other = encode(pipe, "", pad_token="!")[0]
    e, made, uncond = a.e, a.embeds.clone(), empty
    if name == "zero":
        patch, made[1:e] = ip.zero("prompt"), 0
    elif name == "zero some":
        patch, made[e + 1 : e + 1 + int((76 - e) * 0.7)] = ip.zero("pad", fraction=0.7), 0
    elif name == "copy":
        patch, made[e + 1 :] = ip.copy("eot", to="pad"), a.embeds[e]
    elif name == "mean":
        patch = ip.copy("pad", to=("prompt", "eot"), reduce="mean")
        made[1 : e + 1] = a.embeds[e + 1 :].mean(0)
    elif name == "swap":
        patch, made[e] = ip.swap("eot", b), b.embeds[b.e]
    elif name == "repad":
        patch, made, uncond = ip.repad("!"), bang.embeds, other
    else:
        patch, made, uncond = ip.repad("!") & ip.zero("eot"), bang.embeds.clone(), other
        made[e] = 0
    expected = from_embeds(pipe, [made], [a], uncond)
    assert not torch.equal(expected, from_embeds(pipe, [a.embeds], [a], empty)) or (
        "repad" in name and a.pad_ids == (0,)
    )
    with patch.on(pipe):
        assert torch.equal(latents(pipe, negative_prompt=""), expected)
    with patch.on(pipe, tokens=a, negative=empty):
        assert torch.equal(from_embeds(pipe, [a.embeds], [a], empty), expected)
    assert torch.equal(patch.embeds(a, pipe), made)


def test_repadding_is_changing_the_pad_token_of_the_tokenizers(pipe) -> None:
    """The authors' way, as the oracle: SDXL's unconditional zeros stay zeros in it."""
    with ip.repad("!").on(pipe):
        ours = latents(pipe)
    tokenizers = [tokenizer for tokenizer, _ in encoders(pipe)]
    before = [tokenizer.pad_token for tokenizer in tokenizers]
    try:
        for tokenizer in tokenizers:
            tokenizer.pad_token = "!"
        theirs = latents(pipe)
    finally:
        for tokenizer, pad in zip(tokenizers, before, strict=True):
            tokenizer.pad_token = pad
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kernel", PROCESSORS)
def test_everything_is_as_before_afterwards(pipe, kernel: str) -> None:
    b = encode(pipe, LONG)[0]
    with processor(pipe, kernel):
        plain, hooks = latents(pipe), hook_count(pipe)
        for kind in ("embeddings", "heads", "mask"):
            patch = some_patch(kind, b)
            with pytest.raises(RuntimeError, match="in the middle"), patch.on(pipe), record(pipe):
                latents(pipe, callback_on_step_end=_fail)
            assert hook_count(pipe) == hooks
        outer, inner = patch.on(pipe), ip.zero("sot").on(pipe)
        outer.__enter__()
        inner.__enter__()
        latents(pipe)
        outer.__exit__(None, None, None)
        latents(pipe)
        inner.__exit__(None, None, None)
        assert hook_count(pipe) == hooks
        assert torch.equal(latents(pipe), plain)


def _fail(*_: Any) -> dict:
    raise RuntimeError("in the middle")


def test_nested_patches_are_composed_ones(pipe) -> None:
    b = encode(pipe, LONG)[0]
    first = ip.zero("eot", side="k", heads=0) & ip.swap("prompt", b, "nearest", side="v")
    second = ip.copy("eot", to="pad", side="k") & ip.mask("sot", heads=0)
    with (first & second).on(pipe):
        composed = latents(pipe)
    with first.on(pipe), second.on(pipe):
        assert torch.equal(latents(pipe), composed)
    with second.on(pipe), first.on(pipe):
        assert not torch.equal(latents(pipe), composed)


def test_shared_embeddings_are_never_written_to(pipe) -> None:
    a, b, empty = encode(pipe, [TEXTS[0], LONG, ""])
    given = torch.stack([empty.embeds, a.embeds])
    before = given.clone()
    added = None
    if a.pooled is not None:
        added = {"text_embeds": torch.stack([a.pooled] * 2), "time_ids": torch.zeros(2, 6)}
    for kind in ("embeddings", "heads", "mask"):
        patch = some_patch(kind, b) & ip.noise("sot", 0.1, 0) & ip.repad("!")
        with patch.on(pipe, a, negative=empty, guided=True), torch.no_grad():
            pipe.unet(torch.zeros(2, 4, 16, 16), 500, given, added_cond_kwargs=added)
        assert torch.equal(given, before)
        assert torch.equal(a.embeds, before[1])
