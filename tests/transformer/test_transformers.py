"""SD 3, FLUX and PixArt: what the verbs do equals plain diffusers on hand-made embeddings."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import interp as ip
from interp.denoiser.hooks import hookable
from tests.transformers import LENGTH, TEXTS, call, given, prompts, shared

ALL = ("sot", "prompt", "eot", "pad")


def test_embeddings_are_the_pipelines_own(pipe):
    for text, prompt in zip(TEXTS, prompts(pipe), strict=True):
        with ip.record(pipe) as log:
            call(pipe, text)
        found = log.reader.batch.prompts[-1]
        assert found == prompt
        assert found.category.tolist() == prompt.category.tolist()
        assert torch.equal(found.embeds, prompt.embeds)
        if prompt.pooled is not None:
            assert torch.equal(found.pooled, prompt.pooled)


def test_categories_are_found_encoder_by_encoder():
    (a,) = ip.encode(shared("sd3"), TEXTS[0], max_sequence_length=LENGTH)
    clip, t5 = a.category[:77], a.category[77:]
    assert a.segments == (("clip", 77), ("t5", LENGTH))
    assert clip[0] == 0
    assert int((clip == 2).sum()) == int((t5 == 2).sum()) == 1
    assert not (t5 == 0).any()
    assert [a.words[i] for i in a.at("t5.eot")] == ["</s>"]
    both = torch.cat([a.at("clip.pad"), a.at("t5.pad")])
    assert torch.equal(a.at("pad"), both)
    assert {a.words[i] for i in a.at("t5.pad")} == {"<pad>"}


def edits(a: ip.Prompt, b: ip.Prompt, c: ip.Prompt) -> dict[str, ip.Patch]:
    return {
        "zero": ip.zero("prompt", fraction=0.5),
        "t5": ip.zero("t5.prompt"),
        "copy": ip.copy("eot", to="prompt"),
        "swap": ip.swap(("prompt", "eot", "pad"), donor=b, align="nearest"),
        "scale": ip.scale("prompt", 1.5, side="kv"),
        "mean": ip.mean("eot", over=[b, c]),
        "noise": ip.noise(ALL, std=0.1, seed=0),
        "several": ip.zero("eot") & ip.swap("prompt", donor=c, align="mean"),
    }


@pytest.mark.parametrize("name", [
    "zero", "t5", "copy", "swap", "scale", "mean", "noise", "several",
])  # fmt: skip
def test_an_edit_gives_what_hand_made_embeddings_give(pipe, name):
    a, b, c = prompts(pipe)
    patch = edits(a, b, c)[name]
    with patch.on(pipe):
        patched = call(pipe, TEXTS[0])
    assert torch.equal(patched, given(pipe, a, patch.embeds(a)))
    assert not torch.equal(patched, call(pipe, TEXTS[0]))


@pytest.mark.parametrize("kind", ["sd3", "dev"])
def test_repad_gives_what_other_pad_tokens_give(kind):
    pipe = shared(kind)
    (a,), (bang,) = (
        ip.encode(pipe, TEXTS[0], pad, max_sequence_length=LENGTH) for pad in (None, "!")
    )
    hand = torch.where((a.category == 3)[:, None], bang.embeds, a.embeds)
    with ip.repad("!", uncond=False).on(pipe):
        patched = call(pipe, TEXTS[0])
    assert torch.equal(patched, given(pipe, a, hand))
    tokenizers = [pipe.tokenizer_2] if kind == "dev" else [
        pipe.tokenizer, pipe.tokenizer_2, pipe.tokenizer_3,
    ]  # fmt: skip
    before = [tokenizer.pad_token for tokenizer in tokenizers]
    for tokenizer in tokenizers:
        tokenizer.pad_token = "!"
    try:
        device = torch.device("cpu")
        texts = [TEXTS[0]] * (2 if kind == "dev" else 3)
        with torch.no_grad():
            plain = pipe.encode_prompt(*texts, max_sequence_length=LENGTH, device=device)[0]
    finally:
        for tokenizer, token in zip(tokenizers, before, strict=True):
            tokenizer.pad_token = token
    assert torch.equal(bang.embeds, plain[0])


@pytest.mark.parametrize("kind", ["sd3", "dev"])
def test_the_pooled_vector_is_edited_by_itself(kind):
    pipe = shared(kind)
    a, b, _ = prompts(pipe)
    for patch, pooled in (
        (ip.zero("pooled"), torch.zeros_like(a.pooled)),
        (ip.swap("pooled", donor=b), b.pooled),
        (ip.scale("pooled", 2, side="kv"), 2 * a.pooled),
    ):
        with patch.on(pipe):
            patched = call(pipe, TEXTS[0])
        hand = given(pipe, a, a.embeds, pooled_prompt_embeds=pooled[None])
        assert torch.equal(patched, hand)
        assert not torch.equal(patched, call(pipe, TEXTS[0]))


@pytest.mark.parametrize("kind", ["sd3", "dev"])
def test_an_edit_in_some_steps(kind):
    pipe = shared(kind)
    a, b, _ = prompts(pipe)
    patch = ip.swap(ALL, donor=b, align="nearest")

    def after_first(pipe: Any, step: int, timestep: Any, state: dict) -> dict:
        state["prompt_embeds"] = torch.cat(
            [state["prompt_embeds"][:-1], patch.embeds(a)[None].to(state["prompt_embeds"])]
        )
        return state

    keys = ["latents", "prompt_embeds"]
    hand = given(
        pipe, a, a.embeds, steps=3,
        callback_on_step_end=after_first, callback_on_step_end_tensor_inputs=keys,
    )  # fmt: skip
    with ip.swap(ALL, donor=b, align="nearest", steps=slice(1, None)).on(pipe):
        assert torch.equal(call(pipe, TEXTS[0], steps=3), hand)


def test_unconditional_rows_are_left_alone():
    pipe = shared("sd3")
    a, _, _ = prompts(pipe)
    (empty,) = ip.encode(pipe, "", max_sequence_length=LENGTH)
    zeroed = ip.zero("pad").embeds(empty)[None]
    with ip.zero("pad", uncond="only").on(pipe):
        only = call(pipe, TEXTS[0])
    assert torch.equal(only, given(pipe, a, a.embeds, negative_prompt_embeds=zeroed))


def test_the_second_call_of_true_guidance_is_unconditional():
    pipe = shared("dev")
    a, b, _ = prompts(pipe)
    more = {"true_cfg_scale": 4.0, "negative_prompt": TEXTS[1], "steps": 3}
    hand = {
        "true_cfg_scale": 4.0, "steps": 3, "negative_prompt_embeds": b.embeds[None],
        "negative_pooled_prompt_embeds": b.pooled[None],
    }  # fmt: skip
    patch = ip.zero("pad")
    with patch.on(pipe) as applied, ip.record(pipe) as log:
        patched = call(pipe, TEXTS[0], **more)
    assert torch.equal(patched, given(pipe, a, patch.embeds(a), **hand))
    assert applied.clock.step == 2
    assert log.dataset().sizes["step"] == 3
    with ip.zero("pad", uncond="only").on(pipe):
        patched = call(pipe, TEXTS[0], **more)
    hand["negative_prompt_embeds"] = patch.embeds(b)[None]
    assert torch.equal(patched, given(pipe, a, a.embeds, **hand))


def test_each_prompt_of_a_batch_has_its_own_patch(pipe):
    a, b, _ = prompts(pipe)
    with ip.apply(pipe, [(a, ip.zero("prompt")), (b, None)]):
        patched = call(pipe, *TEXTS[:2], num_images_per_prompt=2)
    plain = call(pipe, *TEXTS[:2], num_images_per_prompt=2)
    assert not torch.equal(patched[:2], plain[:2])
    assert torch.equal(patched[2:], plain[2:])


@contextmanager
def eager(pipe: Any, taken: Tensor | None = None) -> Iterator[list[dict[str, Tensor]]]:
    """The probabilities of every call, by layer, from what the kernel of attention was given.

    `taken` says which positions of the text's keys are put to minus infinity, in all rows.
    """
    kernel = torch.nn.functional.scaled_dot_product_attention
    calls: list[dict[str, Tensor]] = []
    layer: list[str | None] = [None]
    joint = "SD3" in type(pipe.transformer).__name__

    def attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **more: Any):
        if layer[0] is not None:
            logits = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
            if taken is not None:
                attn_mask = torch.zeros(1, 1, 1, key.shape[2])
                start = key.shape[2] - len(taken) if joint else 0
                attn_mask[..., start : start + len(taken)].masked_fill_(taken, float("-inf"))
            if attn_mask is not None:
                logits = logits + attn_mask
            calls[-1][layer[0]] = logits.softmax(-1)
        return kernel(query, key, value, attn_mask=attn_mask, **more)

    names = {site.path: site.name for site in hookable(pipe)}
    handles = [pipe.transformer.register_forward_pre_hook(lambda *_: calls.append({}))]
    for path, module in pipe.transformer.named_modules():
        if path.endswith(("attn", "attn1", "attn2")):
            name = names.get(path)
            handles.append(
                module.register_forward_pre_hook(lambda *_, name=name: layer.__setitem__(0, name))
            )
    handles.append(pipe.transformer.register_forward_hook(lambda *_: layer.__setitem__(0, None)))
    torch.nn.functional.scaled_dot_product_attention = attend
    try:
        yield calls
    finally:
        torch.nn.functional.scaled_dot_product_attention = kernel
        for handle in handles:
            handle.remove()


def of_image(pipe: Any, probabilities: Tensor, text: int, masked: bool) -> Tensor:
    """The image's queries, and the text's keys before its own."""
    if "PixArt" in type(pipe).__name__:
        return probabilities
    if "SD3" in type(pipe.transformer).__name__ and not masked:
        image = probabilities.shape[-1] - text
        kept = probabilities[:, :, :image]
        return torch.cat([kept[..., image:], kept[..., :image]], dim=-1)
    return probabilities[:, :, text:]


@pytest.mark.parametrize("name", ["none", "zero", "mask", "layer"])
def test_recorded_mass_is_that_of_the_kernel(pipe, name):
    a, b, _ = prompts(pipe)
    patch = {
        "none": ip.Patch(),
        "zero": ip.zero("prompt"),
        "mask": ip.mask("prompt"),
        "layer": ip.swap("eot", donor=b, layers=[0, 1]),
    }[name]
    recorders = (ip.mass, ip.token_mass, ip.entropy, ip.maps())
    with patch.on(pipe), ip.record(pipe, *recorders) as log, eager(pipe) as calls:
        call(pipe, TEXTS[0])
    data = log.dataset().isel(prompt=0, seed=0)
    for step, layers in enumerate(calls):
        for layer, probabilities in layers.items():
            masked = name == "mask" and layer is not None
            # The row of the prompt: the last, unless a donor's world stands behind it.
            row = 0 if "Flux" in type(pipe).__name__ else 1
            p = of_image(pipe, probabilities, len(a.category), masked)[row].double()
            there = data.sel(step=step, layer=layer)
            length = len(a.category)
            assert abs(there.token_mass.values - p[..., :length].mean(1).numpy()).max() < 1e-6
            for code, category in enumerate(ALL):
                mass = p[..., :length][..., a.category == code].sum(-1)
                found = there.mass.sel(category=category).values
                assert abs(found - mass.mean(1).numpy()).max() < 1e-6
                found = there.maps.sel(category=category).values.reshape(mass.shape)
                assert abs(found - mass.numpy()).max() < 1e-6
            image = p[..., length:].sum(-1).mean(1).numpy()
            assert abs(there.mass.sel(category="image").values - image).max() < 1e-6
            entropy = torch.special.entr(p).sum(-1).mean(1).numpy()
            assert abs(there.entropy.values - entropy).max() < 1e-5
    assert abs(data.mass.sum("category") - 1).max() < 1e-5
    assert int(data.tokens.sel(category="image")) == 64
    if name == "mask":
        assert float(data.mass.sel(category="prompt").max()) == 0


def test_a_mask_is_minus_infinity_in_the_kernel(pipe):
    a, _, _ = prompts(pipe)
    if "PixArt" in type(pipe).__name__:
        pytest.skip("its own mask differs between the rows of a batch")
    with ip.mask("prompt", uncond=False).on(pipe):
        patched = call(pipe, TEXTS[0], guidance_scale=1.0)
    with eager(pipe, a.category == 1):
        hand = call(pipe, TEXTS[0], guidance_scale=1.0)
    torch.testing.assert_close(patched, hand, atol=1e-5, rtol=1e-5)


def test_fused_projections_are_recorded_as_unfused_ones():
    pipe = shared("dev")
    fused = copy.copy(pipe)
    fused.transformer = copy.deepcopy(pipe.transformer)
    fused.transformer.fuse_qkv_projections()
    masses = []
    for one in (pipe, fused):
        with ip.record(one) as log:
            call(one, TEXTS[0])
        masses.append(log.dataset().mass)
    assert abs(masses[0] - masses[1]).max() < 1e-5


def beginning(pipe: Any) -> list[str]:
    """The blocks through which the text comes in: PixArt's are each given it anew."""
    names = [site.name for site in hookable(pipe)]
    return names if "PixArt" in type(pipe).__name__ else names[:1]


def test_a_stream_taken_where_it_begins_is_an_edit_of_the_embeddings(pipe):
    _, b, _ = prompts(pipe)
    first = beginning(pipe)
    with ip.swap(ALL, donor=b, align="nearest").on(pipe):
        edited = call(pipe, TEXTS[0])
    with ip.swap(ALL, donor=b, align="nearest", layers=first).on(pipe):
        torch.testing.assert_close(call(pipe, TEXTS[0]), edited, atol=1e-5, rtol=1e-5)


def test_a_donors_stream_at_every_block_is_the_donors_run(pipe):
    names = [site.name for site in hookable(pipe)]
    donor = ip.encode(pipe, "a photo of a cat!", max_sequence_length=LENGTH)[0]
    text = "a photo of a dog!"
    same = ip.encode(pipe, text, max_sequence_length=LENGTH)[0]
    if same.category.tolist() != donor.category.tolist():
        pytest.skip("prompts of other lengths")
    patch = ip.swap(ALL, donor=donor, layers=names)
    if donor.pooled is not None:
        patch = patch & ip.swap("pooled", donor=donor)
    with patch.on(pipe):
        patched = call(pipe, text)
    plain = call(pipe, "a photo of a cat!")
    torch.testing.assert_close(patched, plain, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain, call(pipe, text), atol=1e-5)


def test_the_clean_stream_restores_a_corrupted_run(pipe):
    a, _, _ = prompts(pipe)
    plain, first = call(pipe, TEXTS[0]), beginning(pipe)
    corrupt = ip.noise(ALL, std=2.0, seed=0)
    with (corrupt & ip.swap(ALL, donor=a, layers=first)).on(pipe):
        torch.testing.assert_close(call(pipe, TEXTS[0]), plain, atol=1e-5, rtol=1e-5)
    with (corrupt & ip.swap("eot", donor=a, layers=1)).on(pipe):
        assert not torch.allclose(call(pipe, TEXTS[0]), plain, atol=1e-5)


def test_a_prompts_own_stream_changes_nothing(pipe):
    a, _, _ = prompts(pipe)
    plain = call(pipe, TEXTS[0])
    for layers in (None, 0, slice(None)):
        with ip.swap(ALL, donor=a, layers=layers).on(pipe):
            assert torch.equal(call(pipe, TEXTS[0]), plain)


def test_afterwards_images_are_the_same_bit_for_bit(pipe):
    _, b, _ = prompts(pipe)
    plain = call(pipe, TEXTS[0])
    patch = ip.swap("eot", donor=b, layers=0) & ip.mask("prompt")

    def fails(*_: Any) -> None:
        raise RuntimeError("on purpose")

    handle = pipe.transformer.transformer_blocks[1].register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="on purpose"), patch.on(pipe):
        call(pipe, TEXTS[0])
    handle.remove()
    installed = patch.install(pipe)
    assert not torch.equal(call(pipe, TEXTS[0]), plain)
    assert ip.installed(pipe) == [installed]
    ip.remove(pipe)
    assert torch.equal(call(pipe, TEXTS[0]), plain)


def test_patches_follow_one_another_as_composed(pipe):
    _, b, _ = prompts(pipe)
    one, two = ip.zero("prompt", fraction=0.5), ip.swap("eot", donor=b, layers=1)
    with (one & two).on(pipe):
        composed = call(pipe, TEXTS[0])
    with one.on(pipe), ip.record(pipe) as log, two.on(pipe):
        assert torch.equal(call(pipe, TEXTS[0]), composed)
    assert log.dataset().sizes["seed"] == 1


def test_prompts_are_kept_and_read_again(pipe):
    a, b, _ = prompts(pipe)
    kept = ip.as_prompts(ip.as_dataset([a, b]))
    assert kept == [a, b]
    assert kept[0].segments == a.segments
    patch = ip.swap("t5.eot", donor=b, layers=0)
    assert ip.Patch.from_json(patch.to_json(), pipe) == patch


@pytest.mark.parametrize(
    ("patch", "why"),
    [
        (ip.silence({"joint.0": [0]}), "have neurons to silence"),
        (ip.zero("pad", side="k"), "side="),
        (ip.zero("pad", heads=0), "heads="),
        (ip.copy("eot", to="pooled"), "pooled vector is not a position"),
        (ip.mask("pooled"), "pooled vector is not a position"),
        (ip.zero("pooled", layers=0), "pooled vector is not a position"),
        (ip.guide(1, until="minimum"), "first minimum"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(patch, why):
    with pytest.raises(ip.InterpError, match=why), patch.on(shared("sd3")):
        pass


def test_other_pipelines_are_refused_by_name(sdxl):
    pipe = shared("sd3")
    with pytest.raises(ip.InterpError, match="pooled"), ip.zero("pooled").on(sdxl):
        pass

    class Another(type(pipe)):
        pass

    other = Another(**pipe.components)
    with pytest.raises(ip.InterpError, match="Another"), ip.zero("pad").on(other):
        pass
