"""The report's vocabulary: the field's terms in words for readers who do not know them."""

from collections.abc import Mapping

#: The categories of positions, each with a short explanation.
CATEGORIES: Mapping[str, tuple[str, str]] = {
    "sot": ("start token", "the first place, the same for every text"),
    "prompt": ("words", "what was typed, cut into tokens"),
    "eot": ("end token", "a mark after the words that sums up the whole text"),
    "pad": ("padding", "a filler that makes every text 77 tokens long"),
}

#: What is shown for tokens that are not words.
SPECIAL: Mapping[str, str] = {"sot": "start", "eot": "end", "pad": "padding"}

#: What an edit does, in plain words.
EDITS: Mapping[str, str] = {
    "none": "nothing changed",
    "c": "words removed",
    "f": "end token removed",
    "h": "padding removed",
    "a": "end token and padding removed",
    "zero prompt and eot": "words and end token removed",
    "zero prompt and pad": "words and padding removed",
    "zero prompt, eot and pad": "words, end token and padding removed",
    "b": "words replaced by the end token",
    "d": "padding replaced by the end token",
    "e": "words and padding replaced by the end token",
    "g": "words and end token replaced by mean padding",
    "repad '!' and zero eot": "“!” as padding and no end token",
    "repad '!'": "“!” as padding",
    "zero pad 70 %": "70 % of the padding removed",
    "Ren et al.": "padding hidden, more attention to the start",
    "Wen et al.": "embedding optimised against memorization",
    "random token addition (RTA)": "a random token added",
    "random number addition (RNA)": "a random number added",
    "embedding noise": "noise on the embedding",
}

#: What a detector measures, in one sentence.
DETECTORS: Mapping[str, str] = {
    "guidance norm": "how far the text pulls the prediction, over all steps",
    "guidance norm, first step": "the same at the first step only",
    "score change": "how far the prediction moves between the second and third step",
    "early entropy": "how evenly attention is spread at the first step",
    "late entropy": "how evenly attention is spread at the last steps",
    "bright ending": "the pull of the text where the last step looks at the end token",
}


def label(edit: str) -> str:
    """An edit in plain words, or its name if it has none.

    Example:
        >>> label("h")
        'padding removed'
    """
    return EDITS.get(edit, edit)
