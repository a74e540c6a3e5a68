"""The paper's interventions, against index arithmetic; its figures, with where they come from."""

import pytest
import torch

from interp import paper
from interp.encoding import encode


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
