"""Rewordings keep the words that they say they keep."""

from interp.text.paraphrase import exchanged, reordered, shortened, without_a_word

TITLE = "Classic Orchard Area Rug by Tom Meyer"


def test_rewordings():
    assert sorted(reordered(TITLE).split()) == sorted(TITLE.split())
    assert reordered(TITLE).startswith("by Tom Meyer ")
    assert shortened(TITLE) + " by Tom Meyer" == TITLE
    assert exchanged(TITLE, ["Classic Car", "Retro Sofa"]) == TITLE.replace("Classic", "Retro")
    assert without_a_word(TITLE)[4] == "Classic Orchard Area Rug Tom Meyer"
    assert len(without_a_word(TITLE)) == 7


def test_texts_without_an_ending_or_another_word():
    assert [reordered("goat"), shortened("goat"), without_a_word("goat")] == ["goat", "goat", []]
    assert [reordered("red goat"), shortened("red goat")] == ["goat red", "red"]
    assert reordered("by Tom") == "Tom by"
    assert exchanged("goat", ["goat", ""]) == "goat"
    assert exchanged("", ["goat"]) == ""
