"""Scenes of drawings on a ground of one or two colours, and the captions that say what they show.

A scene is drawn from (seed, index) alone, so the stream is endless, never repeats, and any worker
can make any part of it. Corners and sizes lie on a coarse grid: the latents are an eighth as fine
as the pixels, and what looks the same wherever it stands is learned once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numpy as np

from . import emoji
from .population import COLOURS, OBJECTS, Colour

Option = TypeVar("Option")

SIZE = 64
NAMES = tuple(COLOURS)
PLAIN = ("{thing}", "a picture of {thing}", "a photo of {thing}", "an emoji of {thing}")
COLOURED = (
    "{thing} on {tone} background",
    "{thing}, {colour} background",
    "{tone} picture of {thing}",
)
PAIRS = 2_000
"""Captions that name two objects."""
EXCLAIMED = "!~"
"""How one in twenty captions ends where texts are learned: CLIP reads it as `!` (id 0) and `~`, so
that the id with which SD 2 pads has an embedding that was trained."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption and what it promises: the objects, and the colour of the ground if it says one."""

    text: str
    objects: tuple[str, ...]
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One drawing placed on the canvas; `x`, `y` is its upper left corner in pixels."""

    name: str
    size: int
    x: int
    y: int
    mirrored: bool


@dataclass(frozen=True, slots=True)
class Patch:
    """A square of one colour under the drawings; `x`, `y` is its upper left corner in pixels."""

    colour: Colour
    size: int
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Scene:
    """A ground of one or two colours (0..255), and what lies on it, back to front."""

    colours: tuple[Colour, ...]
    split: tuple[float, float, float]
    items: tuple[Item, ...]
    patches: tuple[Patch, ...] = ()


def article(name: str) -> str:
    if name in ("headphones", "grapes"):
        return name
    return f"an {name}" if name[0] in "aeiou" and name != "ufo" else f"a {name}"


def say(form: str, thing: str, colour: str | None) -> str:
    return form.format(thing=thing, colour=colour, tone=article(colour) if colour else None)


def pick(draw: np.random.Generator, options: Sequence[Option]) -> Option:
    return options[int(draw.integers(len(options)))]


@cache
def captions() -> tuple[tuple[Caption, ...], tuple[Caption, ...]]:
    """All captions of one object, and a fixed sample of those of two."""
    singles = []
    for name in OBJECTS:
        thing = article(name)
        singles += [Caption(form.format(thing=thing), (name,)) for form in PLAIN]
        singles += [
            Caption(say(form, thing, colour), (name,), colour)
            for form in COLOURED
            for colour in COLOURS
        ]
    draw = np.random.default_rng(20)
    doubles: set[Caption] = set()
    while len(doubles) < PAIRS:
        first, second = draw.choice(len(OBJECTS), 2, replace=False)
        pair = (OBJECTS[first], OBJECTS[second])
        thing = f"{article(pair[0])} {pick(draw, ('and', 'next to'))} {article(pair[1])}"
        colour = pick(draw, NAMES) if draw.random() < 0.6 else None
        form = pick(draw, PLAIN if colour is None else COLOURED)
        doubles.add(Caption(say(form, thing, colour), pair, colour))
    return tuple(singles), tuple(sorted(doubles, key=lambda caption: caption.text))


def shade(draw: np.random.Generator, colour: Colour) -> Colour:
    """A shade of a colour, near enough to deserve its name."""
    near = np.array(colour) + draw.normal(0, 6, 3) + draw.normal(0, 6)
    red, green, blue = (int(value) for value in np.clip(near.round(), 0, 255))
    return red, green, blue


def random_split(draw: np.random.Generator) -> tuple[float, float, float]:
    """A line that divides the canvas: its normal (two numbers) and its offset in 0..1."""
    angle = draw.uniform(0, 2 * np.pi)
    return float(np.cos(angle)), float(np.sin(angle)), float(draw.uniform(0.35, 0.65))


WHOLE = (1.0, 0.0, 0.5)
"""The dividing line of a ground of one colour, which has none."""


def compose(draw: np.random.Generator, caption: Caption) -> Scene:
    """A scene that keeps the caption's promise."""
    colour = caption.colour or pick(draw, NAMES)
    colours: tuple[Colour, ...] = (shade(draw, COLOURS[colour]),)
    split = WHOLE
    if caption.colour is None and draw.random() < 0.2:
        colours += (shade(draw, COLOURS[pick(draw, NAMES)]),)
        split = random_split(draw)
    if len(caption.objects) == 1:
        size, corners = pick(draw, ((32, (0, 16, 32)), (48, (0, 16))))
        spots = [(size, pick(draw, corners), pick(draw, corners))]
    else:
        spots = spread(draw, "pair")
    return Scene(colours, split, placed(draw, caption.objects, spots))


def spread(draw: np.random.Generator, layout: str) -> list[tuple[int, int, int]]:
    """Where a layout puts its objects: size and upper left corner of each."""
    if layout == "large":
        return [(48, pick(draw, (0, 8, 16)), pick(draw, (0, 8, 16)))]
    if layout == "pair":
        pairs = (((0, 16), (32, 16)), ((16, 0), (16, 32)), ((0, 0), (32, 32)), ((0, 32), (32, 0)))
        spots = list(pick(draw, pairs))
        return [(32, *spots[n]) for n in draw.permutation(2)]
    if layout == "row":
        height = pick(draw, (0, 20, 40))
        return [(24, x, height) for x in (0, 20, 40)]
    if layout == "corners":
        return [(24, x, y) for x in (0, 40) for y in (0, 40)]
    if layout == "ring":
        return [(24, *spot) for spot in ((20, 0), (40, 20), (20, 40), (0, 20))]
    assert layout == "busy", layout
    return [(24, x, y) for y in (0, 20, 40) for x in (0, 20, 40)]


def placed(
    draw: np.random.Generator, names: Sequence[str], spots: Sequence[tuple[int, int, int]]
) -> tuple[Item, ...]:
    """One object at each spot, mirrored or not."""
    mirrored = draw.random(len(spots)) < 0.5
    return tuple(
        Item(name, *spot, bool(turned))
        for name, spot, turned in zip(names, spots, mirrored, strict=True)
    )


def render(scene: Scene) -> np.ndarray:
    """The picture, `[64, 64, 3]` uint8."""
    canvas = np.empty((SIZE, SIZE, 3), np.float32)
    canvas[:] = np.array(scene.colours[0], np.float32) / 255
    if len(scene.colours) == 2:
        canvas[beyond(scene.split)] = np.array(scene.colours[1], np.float32) / 255
    for under in scene.patches:
        window = canvas[under.y : under.y + under.size, under.x : under.x + under.size]
        window[:] = np.array(under.colour, np.float32) / 255
    for item in scene.items:
        drawing = emoji.sprite(item.name, item.size, item.mirrored)
        window = canvas[item.y : item.y + item.size, item.x : item.x + item.size]
        window *= 1 - drawing[..., 3:]
        window += drawing[..., :3]
    return (canvas.clip(0, 1) * 255).round().astype(np.uint8)


ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1) - 0.5


def beyond(split: tuple[float, float, float]) -> np.ndarray:
    """The pixels on the far side of a dividing line, `[64, 64]` bool."""
    across, down, offset = split
    return across * COLUMNS + down * ROWS > offset - 0.5


def scene(seed: int, index: int) -> tuple[Caption, Scene]:
    """The honest scene of that number in the stream of that seed, with its caption.

    Example:
        >>> caption, what = scene(0, 7)
        >>> render(what).shape
        (64, 64, 3)
    """
    draw = np.random.default_rng((seed, index))
    singles, doubles = captions()
    caption = pick(draw, singles if draw.random() < 0.8 else doubles)
    return caption, compose(draw, caption)
