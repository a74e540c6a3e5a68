"""The paper's interventions, against index arithmetic; its figures, with where they come from."""

import numpy as np
import pytest
import torch

from interp import mitigations, paper
from interp.session import Session
from interp.text.encoding import encode


def by_hand(letter, embeds, e):
    """The paper's edits of one prompt's embeddings whose end-of-text token is at `e`."""
    new, pad = embeds.clone(), embeds[e + 1 :].mean(0)
    match letter:
        case "a":
            new[e:] = 0
        case "b":
            new[1:e] = embeds[e]
        case "c":
            new[1:e] = 0
        case "d":
            new[e + 1 :] = embeds[e]
        case "e":
            new[1:] = embeds[e]
        case "f":
            new[e] = 0
        case "g":
            new[1 : e + 1] = pad
        case "h":
            new[e + 1 :] = 0
    return new


@pytest.mark.parametrize("letter", "abcdefgh")
def test_interventions_are_the_papers_edits(pipe, letter):
    patch = paper.interventions()[letter]
    for prompt in encode(pipe, ["Antique Church Poster in Berlin", "goat", "a goat! on a hill"]):
        expected = by_hand(letter, prompt.embeds, prompt.e)
        assert torch.equal(patch.embeds(prompt), expected)
        assert torch.equal(patch.embeds(prompt, uncond=True), prompt.embeds)


@pytest.mark.parametrize("letter", "abcdefgh")
def test_images_are_plain_diffusers_from_hand_made_embeddings_bit_for_bit(sd1, letter):
    prompt = encode(sd1, "Antique Church Poster in Berlin")[0]
    plain = sd1(
        prompt_embeds=by_hand(letter, prompt.embeds, prompt.e)[None],
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
    ).images[0]
    patch = paper.interventions()[letter]
    ours = Session(sd1, steps=2).images(prompt, seeds=[3], patch=patch)[0]
    assert np.array_equal(np.asarray(plain), np.asarray(ours))


def test_every_figure_of_the_paper_has_its_patch():
    results = paper.results()
    assert [row["key"] for row in results["interventions"]] == list(paper.interventions())
    assert [row["name"] for row in results["mitigations"]] == list(paper.mitigations())


def test_figures_keep_their_provenance_and_what_is_unknown():
    results = paper.results()
    assert "not from the paper itself" in results["provenance"]
    by_key = {row["key"]: row["sscd"] for row in results["interventions"]}
    assert by_key["h"] == 0.07
    assert by_key["b"] is None


def test_settings_are_those_of_the_authors_code():
    measured = paper.results()["setting"]["measures"]
    assert "sscd_disc_large" in measured["sscd"]
    assert "skew_320" in measured["sscd"]
    for name in ("random token addition (RTA)", "random number addition (RNA)"):
        assert paper.mitigations()[name].count == 1
    # That this is their attention is tested in test_mitigations.
    assert paper.mitigations()["Ren et al."] == mitigations.rescale_sot(1.25, uncond="paired")


def test_published_figures_are_by_the_names_of_the_edits():
    found = paper.published()
    assert set(found) == set(paper.interventions()) | set(paper.mitigations())
    assert found["h"] == 0.07
    assert found["zero pad 70 %"] == 0.10
    assert found["b"] is None
    assert paper.published("clipscore")["f"] == 0.32
    assert paper.titles()["g"] == "prompt, eot <- mean pad"


def test_letters_are_shown_with_what_they_stand_for():
    assert paper.label("h") == "h: zero pad"
    assert paper.label("repad '!'") == "repad '!'"
