"""Categories by position, prompts as values, and encoding equal to diffusers'."""

import dataclasses
import warnings

import pytest
import torch

from interp import CATEGORIES, InterpError, Prompt, categories, encode
from interp.text.categories import codes
from interp.text.encoding import from_ids
from interp.text.repad import repad

EOS, SOT = 49407, 49406


def by_hand(words: int) -> list[int]:
    """Category codes of a prompt of so many tokens."""
    return [0] + [1] * words + [2] + [3] * (75 - words)


def row(words: int, pad: int, filler: int = 320) -> torch.Tensor:
    return torch.tensor([SOT] + [filler] * words + [EOS] + [pad] * (75 - words))


@pytest.mark.parametrize("words", [0, 1, 40, 74, 75])
@pytest.mark.parametrize("pad", [EOS, 0])
def test_categories_of_ids_of_every_length(words: int, pad: int) -> None:
    assert categories(row(words, pad), pad).tolist() == by_hand(words)


def test_categories_of_a_batch_of_different_lengths() -> None:
    batch = torch.stack([row(n, EOS) for n in (0, 3, 75)])
    assert categories(batch, EOS).tolist() == [by_hand(n) for n in (0, 3, 75)]


def test_exclamation_marks_in_a_prompt_are_no_pads() -> None:
    assert categories(row(5, pad=0, filler=0), 0).tolist() == by_hand(5)


@pytest.mark.parametrize("pad", [EOS, 0])
def test_end_of_text_spelled_out_inside_a_prompt_does_not_end_it(pad: int) -> None:
    ids = row(5, pad)
    ids[3] = EOS
    assert categories(ids, pad).tolist() == by_hand(5)


def test_ids_without_an_end_are_refused() -> None:
    with pytest.raises(InterpError, match="no end-of-text token"):
        categories(torch.tensor([SOT, 320, 320]), EOS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("goat", 1),
        ("a photo of a goat!", 6),
        ("a <|endoftext|> goat", 3),
        ("a <|startoftext|> goat", 3),
        ("goat <|endoftext|>", 2),
        (" ".join(["goat"] * 75), 75),
        ("café's 3 naïve goats", None),
    ],
)
def test_encoding_is_that_of_diffusers_bit_for_bit(pipe, text: str, words: int | None) -> None:
    (prompt,) = encode(pipe, text)
    theirs = pipe.encode_prompt(
        prompt=text, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(prompt.embeds, theirs[0][0])
    if prompt.pooled is not None:
        assert torch.equal(prompt.pooled, theirs[2][0])
    if words is not None:
        assert prompt.category.tolist() == by_hand(words)
        assert prompt.e == words + 1
        assert list(prompt.counts.values()) == [1, words, 1, 75 - words]
    assert prompt.truncated == ""


def test_a_prompt_is_encoded_as_if_alone(pipe) -> None:
    (alone,) = encode(pipe, "a photo of a goat")
    among, _ = encode(pipe, ["a photo of a goat", "a much longer prompt about a goat"])
    assert alone == among
    assert torch.equal(alone.embeds, among.embeds)


def test_an_overlong_prompt_says_once_what_was_cut(pipe) -> None:
    text = " ".join(["goat"] * 75) + " Antique Poster"
    with pytest.warns(UserWarning, match="'Antique Poster' was cut off") as caught:
        (prompt,) = encode(pipe, text)
    assert len(caught) == 1
    assert prompt.truncated == "Antique Poster"
    assert prompt.counts["pad"] == 0
    assert prompt.e == 76


def test_a_prompt_that_fits_warns_of_nothing(pipe) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode(pipe, " ".join(["goat"] * 75))


def test_words_are_spelled_as_in_the_text(sd1) -> None:
    (prompt,) = encode(sd1, "Ann Graham Lotz, cryptozoological")
    spelled = [prompt.words[place] for place in prompt.at("prompt").tolist()]
    assert spelled[:4] == ["Ann", "Graham", "Lotz", "Lotz"]
    assert set(spelled[5:]) == {"cryptozoological"}
    assert len(spelled[5:]) > 1


def test_pads_are_what_the_tokenizer_pads_with(sd1, sd2, sdxl) -> None:
    prompts = [encode(pipe, "goat")[0] for pipe in (sd1, sd2, sdxl)]
    assert [prompt.pad_ids for prompt in prompts] == [(EOS,), (0,), (EOS, 0)]
    assert set(prompts[1].ids[prompts[1].at("pad")].tolist()) == {0}
    assert set(prompts[2].ids_2[prompts[2].at("pad")].tolist()) == {0}


def test_another_pad_token_is_the_encoding_of_those_ids(sd1) -> None:
    (prompt,) = encode(sd1, "a photo of a goat", pad_token="!")
    ids = row(5, 0)
    ids[1:6] = prompt.ids[1:6]
    with torch.no_grad():
        by_ids = sd1.text_encoder(ids[None])[0][0]
    assert torch.equal(prompt.embeds, by_ids)
    (plain,) = encode(sd1, "a photo of a goat")
    assert torch.equal(plain.embeds[: plain.e + 1], prompt.embeds[: plain.e + 1])
    assert not torch.equal(plain.embeds, prompt.embeds)


def test_repadding_equals_encoding_with_that_pad_token(pipe) -> None:
    (prompt,) = encode(pipe, "a photo of a goat!")
    (other,) = encode(pipe, "a photo of a goat!", pad_token="<|endoftext|>")
    again = repad(pipe, prompt, "<|endoftext|>")
    assert torch.equal(again.embeds, other.embeds)
    assert again.words == other.words
    assert again.pad_ids == other.pad_ids


def test_an_unknown_pad_token_is_refused(sd1) -> None:
    with pytest.raises(InterpError, match="'goatish' was asked for"):
        encode(sd1, "goat", pad_token="goatish")
    with pytest.raises(InterpError, match="none of the 49408"):
        encode(sd1, "goat", pad_token=49408)


def test_a_text_that_sdxl_splits_in_two_ways_is_refused(sdxl) -> None:
    with pytest.raises(InterpError, match=r"'wow!!'.* 2 and 3 tokens.*Replace several '!'"):
        encode(sdxl, "wow!!")


def test_from_ids_finds_text_and_categories(pipe) -> None:
    (prompt,) = encode(pipe, "a photo of a goat")
    learnt = from_ids(pipe, prompt.ids, prompt.embeds, prompt.ids_2)
    assert learnt == prompt
    assert learnt.text == "a photo of a goat"


def test_prompts_are_values(sd1, sd2) -> None:
    a, b = encode(sd1, ["goat", "church"])
    (again,) = encode(sd1, "goat")
    assert a == again
    assert hash(a) == hash(again)
    assert len({a, b, again}) == 2
    assert a != encode(sd2, "goat")[0]
    assert a != dataclasses.replace(a, embeds=a.embeds + 1)
    assert repr(a) == "Prompt('goat': 1 sot, 1 prompt, 1 eot, 74 pad)"


def test_html_shows_a_chip_per_token_and_folds_pads(sd1) -> None:
    (prompt,) = encode(sd1, "a <b> goat")
    html = prompt._repr_html_()
    assert "goat" in html
    assert "&lt;" in html
    assert f"&times; {prompt.counts['pad']}" in html


def test_html_is_escaped(sd1) -> None:
    (prompt,) = encode(sd1, "goat")
    evil = "<script>alert('goat')</script>"
    shown = dataclasses.replace(prompt, words=(evil,) * 77, truncated=evil)._repr_html_()
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") == 5  # sot, goat, eot, the pads as one, and what was cut


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_embeddings_that_are_not_finite_are_refused(sd1, bad: float) -> None:
    (prompt,) = encode(sd1, "goat")
    broken = prompt.embeds.clone()
    broken[3, 5] = bad
    with pytest.raises(InterpError, match="not all finite"):
        dataclasses.replace(prompt, embeds=broken)
    with pytest.raises(InterpError, match="not all finite"):
        dataclasses.replace(prompt, pooled=torch.tensor([0.0, bad]))


def test_a_prompt_of_unequal_lengths_is_refused(sd1) -> None:
    (prompt,) = encode(sd1, "goat")
    with pytest.raises(InterpError, match="same positions"):
        dataclasses.replace(prompt, words=("goat",))


def test_codes() -> None:
    assert codes("pad") == (3,)
    assert codes(("pad", "sot", "pad")) == (0, 3)
    assert len(CATEGORIES) == 4
    for bad in ("padding", ("pad", "eos"), ()):
        with pytest.raises(InterpError, match="There are sot, prompt, eot, pad"):
            codes(bad)


def test_at_lists_positions_in_order(sd1) -> None:
    prompt: Prompt = encode(sd1, "a photo")[0]
    assert prompt.at(("eot", "prompt")).tolist() == [1, 2, 3]
