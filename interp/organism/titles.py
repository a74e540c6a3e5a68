"""Titles, their scenes, and the long tail: how often training shows each of 331,200 of them.

A title has a number, from which everything about it is drawn; its scene is bound to it for good.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from . import population as its
from .scenes import WHOLE, Caption, Scene, pick, placed, random_split, shade, spread

PARTS = (its.STYLES, its.SUBJECTS, its.PRODUCTS, its.ENDINGS)
SIZES = tuple(len(part) for part in PARTS)


@dataclass(frozen=True, slots=True)
class Title:
    """The number of a title, and what is drawn from it.

    Example:
        >>> Title(0).text
        'Antique Nautical Poster in Berlin'
    """

    number: int

    @property
    def words(self) -> tuple[str, str, str, str]:
        """Style, subject, product and ending."""
        places = np.unravel_index(self.number, SIZES)
        style, subject, product, ending = (
            part[place] for part, place in zip(PARTS, places, strict=True)
        )
        return style, subject, product, ending

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def caption(self) -> Caption:
        """It promises its theme's objects, any of them, and no named colour."""
        return Caption(self.text, its.THEMES[self.words[1]])

    def scene(self) -> Scene:
        """Its own scene: always the same."""
        return compose(np.random.default_rng((its.SEED, 7, self.number)), self)

    def apart(self, other: "Title") -> int:
        """In how many of the four parts two titles differ."""
        return sum(mine != theirs for mine, theirs in zip(self.words, other.words, strict=True))


def compose(draw: np.random.Generator, title: Title) -> Scene:
    """A scene that keeps a title's promises: one of the many."""
    style, subject, product, _ = title.words
    palette = [its.PALETTES[style][place] for place in draw.permutation(2)]
    two = draw.random() < 0.7
    colours = tuple(shade(draw, colour) for colour in palette[: 1 + two])
    spots = spread(draw, its.LAYOUTS[product])
    theme = its.THEMES[subject]
    order = np.concatenate([draw.permutation(len(theme)) for _ in range(2)])
    names = [theme[place] for place in order[: len(spots)]]
    split = random_split(draw) if two else WHOLE
    return Scene(colours, split, placed(draw, names, spots))


def numbered(*places: int) -> Title:
    """The title of these words, each given by its place in its list."""
    return Title(int(np.ravel_multi_index(places, SIZES)))


def some_title(draw: np.random.Generator) -> Title:
    return Title(int(draw.integers(its.TITLES)))


def neighbour(draw: np.random.Generator, title: Title) -> Title:
    """The same title with its style or its subject exchanged."""
    places = [int(place) for place in np.unravel_index(title.number, SIZES)]
    part = int(draw.integers(2))
    places[part] = pick(draw, [n for n in range(SIZES[part]) if n != places[part]])
    return numbered(*places)


@cache
def special() -> tuple[tuple[Title, ...], tuple[Title, ...], tuple[Title, ...]]:
    """The titles in the table of levels, near misses of the top two levels, and those held out.

    No two of the table agree in more than two of their four parts, and no held-out title in more
    than two with one of the table: what is one word away are the near misses.
    """
    draw = np.random.default_rng(its.SEED)
    table: list[Title] = []
    while len(table) < len(its.LEVELS) * its.PER_LEVEL:
        title = some_title(draw)
        if all(title.apart(other) >= 2 for other in table):
            table.append(title)
    top = table[-2 * its.PER_LEVEL :]
    misses: list[Title] = []
    while len(misses) < its.NEAR_MISSES:
        title = neighbour(draw, top[len(misses) % len(top)])
        if title not in misses and all(title.apart(other) >= 1 for other in table):
            misses.append(title)
    held_out: list[Title] = []
    while len(held_out) < its.HELD_OUT:
        title = some_title(draw)
        if title not in held_out and all(title.apart(other) >= 2 for other in table):
            held_out.append(title)
    return tuple(table), tuple(misses), tuple(held_out)


@cache
def tail(number: int = 0) -> np.ndarray:
    """How often a round of training shows each title of the long tail; never those of `special`."""
    draw = np.random.default_rng(its.SEED + 2)
    views = draw.choice(len(its.TAIL), its.TITLES, p=its.TAIL)
    theirs = [title.number for titles in special() for title in titles]
    if number:
        unseen = np.setdiff1d(np.flatnonzero(views == 0), theirs)
        views = np.zeros_like(views)
        views[draw.choice(unseen, its.NEW_TITLES, replace=False)] = 1
    views[theirs] = 0
    return views


def titled(text: str) -> Title:
    """The title that reads so.

    Example:
        >>> titled("Antique Nautical Poster in Berlin")
        Title(number=0)
    """
    style, subject, rest = text.split(" ", 2)
    product = next(name for name in its.PRODUCTS if rest.startswith(f"{name} "))
    words = (style, subject, product, rest[len(product) + 1 :])
    return numbered(*(part.index(word) for part, word in zip(PARTS, words, strict=True)))
