"""What must always hold: equalities between two ways of computing the same thing.

Over pipelines shaped like SD 1, SD 2 and SDXL, over attention kernels, and in bfloat16 where
precision matters.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import interp as ip
from interp import Patch, Prompt, apply, encode, record, sites
from interp.denoiser.hooks import Hooks
from interp.text.encoding import encoders
from tests.conftest import hook_count
from tests.runs import PROCESSORS, TEXTS, from_embeds, kernels, latents, processor

# bfloat16 takes a CPU five times as long, so one kernel must do.
KERNELS = [*((kernel, torch.float32) for kernel in PROCESSORS), ("default", torch.bfloat16)]
LONG = "a rather long prompt about an antique church poster in the old city of Berlin"


def some_patch(kind: str, b: Prompt) -> Patch:
    """Patches by every route to a layer: embeddings, keys and values of heads, masks."""
    head = ip.swap("pad", b, "nearest", side="k", heads=0, layers="up")
    return {
        "none": Patch(),
        "embeddings": ip.zero("pad", 0.7) & ip.copy("eot", to="prompt"),
        "heads": head & ip.zero("eot", side="v"),
        "mask": ip.mask("pad", heads=0) & ip.scale("sot", 1.25) & ip.mask("eot", layers="down"),
    }[kind]


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


def predictions(pipe: Any, patch: Patch, texts: Any, images: int, **call: Any) -> Tensor:
    """What the UNet predicted for all rows in the first step."""
    seen: list[Tensor] = []
    with patch.on(pipe), Hooks() as hooks:
        hooks.after(pipe.unet, lambda module, args, kwargs, output: seen.append(output[0]))
        latents(pipe, texts, steps=1, num_images_per_prompt=images, **call)
    return seen[0]


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


categories = st.lists(st.sampled_from(ip.CATEGORIES), min_size=1, max_size=4, unique=True)
wheres = st.fixed_dictionaries(
    {},
    optional={
        "layers": st.sampled_from(["up", "down", "mid", "up.1", 0, slice(2, 5), "all"]),
        "steps": st.sampled_from([0, 1, [0, 1], slice(1, None), range(2)]),
        "heads": st.sampled_from([0, {"up": 0, "mid": 0, "down": 0}]),
        "side": st.sampled_from(["k", "v", "kv"]),
    },
)


@st.composite
def patches(draw: st.DrawFn, a: Prompt, b: Prompt) -> tuple[Patch, Patch]:
    """A patch, and the same edits with prompt A's own embeddings: an identity."""
    made, same = Patch(), Patch()
    for _ in range(draw(st.integers(1, 3))):
        names, where = draw(categories), draw(wheres)
        same &= ip.swap(names, a, **where)
        made &= draw(
            st.sampled_from(
                [
                    ip.zero(names, fraction=draw(st.sampled_from([0.5, 1.0])), **where),
                    ip.swap(names, b, "nearest", **where),
                    ip.copy("eot", to=names, **where),
                    ip.scale(names, draw(st.floats(-2, 2)), **where),
                    ip.noise(names, 0.5, seed=draw(st.integers(0, 9)), **where),
                    ip.mean(names, over=[a, b], **where),
                ]
            )
        )
    if draw(st.booleans()):
        made &= ip.mask("pad")
    return made, same


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_random_patches(make_pipe, kind: str) -> None:
    """Identity, restoration, unconditional rows untouched, JSON, printing: for any patch."""
    pipe = make_pipe(kind)
    a, b = encode(pipe, [TEXTS[0], LONG])
    plain = predictions(pipe, Patch(), TEXTS[0], 2)
    images, hooks = latents(pipe), hook_count(pipe)

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(patches(a, b))
    def check(pair: tuple[Patch, Patch]) -> None:
        made, same = pair
        assert Patch.from_json(made.to_json(), donors=[a, b]) == made
        assert repr(made) == " & ".join(map(repr, made.operations))
        with same.on(pipe):
            assert torch.equal(latents(pipe), images)
        with made.on(pipe, strict=False), Hooks() as spy:
            seen: list[Tensor] = []
            spy.after(pipe.unet, lambda module, args, kwargs, output: seen.append(output[0]))
            latents(pipe, steps=1, num_images_per_prompt=2)
        assert torch.equal(seen[0][:2], plain[:2])
        assert hook_count(pipe) == hooks
        assert torch.equal(latents(pipe), images)

    check()
