"""Small edits of a prompt that leave most of what it says, without any language model.

For asking what survives a rewording: a detector, a mitigation, or memorization itself. They are
words moved, left out or exchanged, not what a person would write.
"""

from collections.abc import Sequence

PREPOSITIONS = frozenset({"at", "by", "for", "from", "in", "of", "on", "with"})


def reordered(text: str) -> str:
    """The same words, the ending first.

    Example:
        >>> reordered("Classic Orchard Area Rug by Tom Meyer")
        'by Tom Meyer Classic Orchard Area Rug'
    """
    words = text.split()
    end = _ending(words)
    return " ".join(words[end:] + words[:end])


def shortened(text: str) -> str:
    """Without the ending: from the last preposition on, or the last word.

    Example:
        >>> shortened("Classic Orchard Area Rug by Tom Meyer")
        'Classic Orchard Area Rug'
    """
    words = text.split()
    return " ".join(words[: _ending(words)]) or text


def exchanged(text: str, others: Sequence[str]) -> str:
    """With another first word, the first among those of other prompts that differs.

    Example:
        >>> exchanged("Classic Orchard Area Rug", ["Classic Car", "Retro Kitchen Poster"])
        'Retro Orchard Area Rug'
    """
    words = text.split()
    known = (other.split()[0] for other in others if other.split())
    new = next((word for word in known if words and word.lower() != words[0].lower()), None)
    return text if new is None else " ".join([new, *words[1:]])


def without_a_word(text: str) -> list[str]:
    """Every text that lacks one word.

    Example:
        >>> without_a_word("Orchard Area Rug")
        ['Area Rug', 'Orchard Rug', 'Orchard Area']
    """
    words = text.split()
    return [" ".join(words[:n] + words[n + 1 :]) for n in range(len(words) if words[1:] else 0)]


def _ending(words: Sequence[str]) -> int:
    """Where the ending begins."""
    places = [n for n, word in enumerate(words) if n and word.lower() in PREPOSITIONS]
    return places[-1] if places else max(1, len(words) - 1)
