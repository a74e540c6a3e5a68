"""Mitigations: equal to hand-made embeddings and to the published attention, for any batch."""

import json

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange

from interp import mitigations
from interp.errors import InterpError
from interp.patch import Patch
from interp.patch.base import Operation
from interp.session import Rewrite, Session
from interp.text.encoding import encode
from tests.mitigations.conftest import TEXTS
from tests.pipelines import tokenizer

#: Settings under which a mitigation must change nothing, bit for bit. A new one gets a row here.
NO_EFFECT = {
    "repad": lambda pipe: mitigations.repad(pipe.tokenizer.pad_token),
    "zero_pads": lambda pipe: mitigations.zero_pads(0.0),
    "rescale_sot": lambda pipe: mitigations.rescale_sot(1.0, mask_pads=False),
    "embedding_noise": lambda pipe: mitigations.embedding_noise(std=0.0),
    "random_tokens": lambda pipe: mitigations.random_tokens(0),
    "random_numbers": lambda pipe: mitigations.random_numbers(0),
    "optimise_embedding": lambda pipe: mitigations.optimise_embedding(iterations=0),
    "static_transition": lambda pipe: mitigations.static_transition(weight=7.5),
    "dynamic_transition": lambda pipe: mitigations.dynamic_transition(weight=7.5),
    "opposite_guidance": lambda pipe: mitigations.opposite_guidance(weight=7.5),
    "attenuate_and_repel": lambda pipe: mitigations.attenuate_and_repel(0, factor=1),
    "reanchor": lambda pipe: mitigations.reanchor(high=1e9),
    "stable_steps": lambda pipe: mitigations.stable_steps([1e9, 1e9]),
    "adjust_noise": lambda pipe: mitigations.adjust_noise(iterations=0, unguided=0),
    "optimise_noise": lambda pipe: mitigations.optimise_noise(iterations=0),
    "sharpness_aware_noise": lambda pipe: mitigations.sharpness_aware_noise(iterations=0),
}
#: Those that do nothing to a prompt which is below their target, and settings for a quick test.
TARGETED = {
    "optimise_embedding": {"target": 0},
    "reanchor": {"low": 0, "high": 1e-9, "enough": 0},
    "stable_steps": {"most": (1e-3, 1e-3)},
    "optimise_noise": {"target": 0, "iterations": 2},
    "sharpness_aware_noise": {"target": 0, "iterations": 2},
}


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("name", NO_EFFECT)
def test_settings_without_effect_change_nothing_bit_for_bit(sd, name):
    if name == "repad" and hasattr(sd.pipe, "text_encoder_2"):
        pytest.skip("SDXL's two tokenizers pad differently: no one token leaves both alone")
    edited = sd.run(TEXTS, seeds=[0, 1], patch=NO_EFFECT[name](sd.pipe))
    assert np.array_equal(edited.image, sd.run(TEXTS, seeds=[0, 1]).image)


@pytest.mark.parametrize("name", [*NO_EFFECT, "repad_zero_eot"])
def test_defaults_change_the_image_and_say_what_they_are(one, name):
    mitigation = getattr(mitigations, name)(**TARGETED.get(name, {}))
    edited = one.run(TEXTS, patch={name: mitigation})
    assert not np.array_equal(edited.image.sel(patch=name), one.run(TEXTS).image)
    said = json.loads(edited.attrs["provenance"])["patches"][name]
    assert said == json.loads(mitigation.to_json())
    assert isinstance(mitigation, (Patch, Rewrite))
    assert hash(mitigation) == hash(eval_again(name))


def eval_again(name):
    again = getattr(mitigations, name)
    return again(**TARGETED.get(name, {}))


def test_repad_zero_eot_is_hand_made_prompt_embeds_bit_for_bit(sd1):
    """The authors' way: another tokenizer for both prompts, then the conditional eot zeroed."""
    bang = tokenizer("!")

    def embeds(text):
        ids = bang(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        return sd1.text_encoder(ids)[0].detach()

    positive, negative = embeds(TEXTS[0]), embeds("")
    e = len(bang(TEXTS[0]).input_ids) - 1
    positive[:, e] = 0
    plain = sd1(
        prompt_embeds=positive,
        negative_prompt_embeds=negative,
        num_inference_steps=2,
        generator=generators(3)[0],
    ).images[0]
    shield = mitigations.repad_zero_eot()
    with shield.on(sd1):
        on = sd1(TEXTS[0], num_inference_steps=2, generator=generators(3)[0]).images[0]
    session = Session(sd1, steps=2).images(TEXTS[0], seeds=[3], patch=shield)[0]
    assert np.array_equal(np.asarray(plain), np.asarray(on))
    assert np.array_equal(np.asarray(plain), np.asarray(session))


def test_zero_pads_is_hand_made_prompt_embeds_bit_for_bit(sd1):
    (prompt,) = encode(sd1, TEXTS[0])
    positive, e = prompt.embeds.clone()[None], prompt.e
    positive[:, e + 1 : e + 1 + int((76 - e) * 0.7)] = 0
    plain = sd1(prompt_embeds=positive, num_inference_steps=2, generator=generators(3)[0])
    ours = Session(sd1, steps=2).images(prompt, seeds=[3], patch=mitigations.zero_pads())
    assert np.array_equal(np.asarray(plain.images[0]), np.asarray(ours[0]))


class Published:
    """Ren et al.'s attention written out: logits of the first token times c1, pads at -inf."""

    def __init__(self, c1, ends, uncond_ends):
        self.c1, self.ends, self.uncond_ends = c1, ends, uncond_ends

    def __call__(self, attn, hidden, encoder_hidden_states, attention_mask=None, **kwargs):
        heads, rows = attn.heads, len(hidden)
        split = "b n (h d) -> b h n d"
        q = rearrange(attn.to_q(hidden), split, h=heads)
        k = rearrange(attn.to_k(encoder_hidden_states), split, h=heads)
        v = rearrange(attn.to_v(encoder_hidden_states), split, h=heads)
        logits = q @ rearrange(k, "b h n d -> b h d n") * attn.scale
        logits[rows // 2 :, :, :, 0] *= self.c1
        for row in range(rows):
            cond = row - rows // 2
            end = self.uncond_ends[row] if cond < 0 else self.ends[cond]
            if end is not None:
                logits[row, :, :, end + 1 :] = -torch.inf
        out = rearrange(logits.softmax(-1) @ v, "b h n d -> b n (h d)")
        return attn.to_out[1](attn.to_out[0](out))


@pytest.mark.parametrize("uncond", [False, True, "paired"])
def test_rescale_sot_is_the_published_attention_for_every_row(pipe, uncond):
    """Two prompts of different lengths with two images each: the authors' code fails here."""
    prompts = encode(pipe, TEXTS)
    empty = encode(pipe, "")[0]
    ends = [prompt.e for prompt in prompts for _ in range(2)]
    call = {"num_inference_steps": 2, "num_images_per_prompt": 2, "output_type": "latent"}
    call |= {"negative_prompt": ["", ""], "generator": None}
    with mitigations.rescale_sot(1.25, uncond=uncond).on(pipe):
        ours = pipe(TEXTS, **call | {"generator": generators(0, 1, 2, 3)}).images
    stock = pipe.unet.attn_processors
    uncond_ends = {False: [None] * 4, True: [empty.e] * 4, "paired": ends}[uncond]
    published = Published(1.25, ends, uncond_ends)
    layers = [m for m in pipe.unet.modules() if isinstance(m, Attention) and m.is_cross_attention]
    try:
        for layer in layers:
            layer.processor = published
        theirs = pipe(TEXTS, **call | {"generator": generators(0, 1, 2, 3)}).images
    finally:
        pipe.unet.set_attn_processor(dict(stock))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    plain = pipe(TEXTS, **call | {"generator": generators(0, 1, 2, 3)}).images
    assert (ours - plain).abs().max() > 1e-2


@pytest.mark.parametrize("name", ["rescale_sot", "repad_zero_eot", "zero_pads", "embedding_noise"])
def test_four_images_are_four_times_one_image(sd, name):
    patch = getattr(mitigations, name)()
    four = sd.trace(TEXTS[0], seeds=range(4), patch=patch, half=False).final_latents
    for seed in (0, 3):
        single = sd.trace(TEXTS[0], seeds=[seed], patch=patch, half=False).final_latents
        np.testing.assert_allclose(four.sel(seed=[seed]), single, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_embedding_noise_is_drawn_for_each_row(pipe, seed):
    """Somepalli et al. draw noise for both rows: one says nothing of the other."""
    prompt, empty = encode(pipe, [TEXTS[0], ""])
    patch = mitigations.embedding_noise(1.0, seed, uncond=True)
    added = patch.embeds(prompt) - prompt.embeds
    other = patch.embeds(empty, uncond=True) - empty.embeds
    for drawn in (added, other):
        assert abs(float(drawn.std()) - 1) < 0.05
    pairs = [(added, other)]
    following = mitigations.embedding_noise(1.0, seed + 1, uncond=True)
    pairs += [(following.embeds(prompt) - prompt.embeds, other)]
    pairs += [(following.embeds(empty, uncond=True) - empty.embeds, added)]
    for one, two in pairs:
        assert abs(float(torch.corrcoef(torch.stack([one.ravel(), two.ravel()]))[0, 1])) < 0.05
    # The conditional row is the one that it was without.
    assert torch.equal(added, mitigations.embedding_noise(1.0, seed).embeds(prompt) - prompt.embeds)
    assert torch.equal(mitigations.embedding_noise(1.0).embeds(empty, uncond=True), empty.embeds)


def test_the_paired_mask_needs_no_unconditional_prompt_and_survives_json(sd1):
    """Its unconditional rows may be embeddings of which nothing is known."""
    prompt, empty = encode(sd1, [TEXTS[0], ""])
    patch = mitigations.rescale_sot(uncond="paired")
    call = {"prompt_embeds": prompt.embeds[None], "negative_prompt_embeds": empty.embeds[None]}
    call |= {"num_inference_steps": 1, "output_type": "latent"}
    with patch.on(sd1, tokens=prompt):
        ours = sd1(**call, generator=generators(0)).images
    with patch.on(sd1):
        expected = sd1(TEXTS[0], num_inference_steps=1, output_type="latent",
                       generator=generators(0)).images  # fmt: skip
    torch.testing.assert_close(ours, expected)
    again = Patch.from_json(patch.to_json())
    assert again == patch
    assert "paired=True" in repr(again)
    assert again != mitigations.rescale_sot(uncond=True)


def test_patches_of_mitigations_are_made_of_operations(one):
    patch = mitigations.rescale_sot() & mitigations.repad_zero_eot()
    assert all(isinstance(operation, Operation) for operation in patch.operations)
    assert len(mitigations.rescale_sot(1.0).operations) == 1


@pytest.mark.parametrize("make", [mitigations.random_tokens, mitigations.random_numbers])
def test_random_words_are_inserted_between_the_prompts_own(one, make):
    for count in (1, 4):
        for text in TEXTS:
            new = make(count, seed=5).text(text, one.pipe.tokenizer).split()
            assert len(new) == len(text.split()) + count
            rest = iter(new)
            assert all(word in rest for word in text.split())  # the own words, in their order
            again = make(count, seed=5).text(text, one.pipe.tokenizer).split()
            assert new == again
            assert new != make(count, seed=6).text(text, one.pipe.tokenizer).split()


def test_a_random_token_is_one_token(one):
    prompt = one.encode(TEXTS[0])
    for seed in range(8):
        rewritten = mitigations.random_tokens(4, seed).rewrite(one, prompt, [0])
        assert rewritten.e == prompt.e + 4
    assert all(
        word.isdigit() and int(word) < 100_000
        for word in mitigations.random_numbers(9).text("", one.pipe.tokenizer).split()
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mitigations.random_tokens(-1), "-1 random tokens"),
        (lambda: mitigations.optimise_embedding(target=-1), "A target of -1"),
        (lambda: mitigations.optimise_embedding(target=float("nan")), "A target of nan"),
        (lambda: mitigations.optimise_embedding(learning_rate=0.0), "the rate is positive"),
        (lambda: mitigations.rescale_sot(float("nan")), "must be a finite number"),
        (lambda: mitigations.zero_pads(1.5), "between 0 and 1"),
    ],
)
def test_bad_input_says_what_exists(call, message):
    with pytest.raises(InterpError, match=message):
        call()
