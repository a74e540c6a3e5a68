"""Captioned scenes of emoji: what the caption names is there, everything else varies freely.

A scene is drawn from (seed, index) alone, so the stream is endless, never repeats, and any worker
can make any part of it. Captions, unlike scenes, come from a finite list: their text embeddings can
be computed once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from . import emoji

SIZE = 64
GRID = 16
COLOURS = {
    "red": (205, 45, 50),
    "orange": (245, 145, 40),
    "yellow": (250, 220, 75),
    "green": (60, 160, 75),
    "blue": (55, 110, 205),
    "purple": (130, 75, 175),
    "pink": (245, 165, 195),
    "gray": (150, 152, 156),
}
NAMES = tuple(COLOURS)
PLAIN = ("{thing}", "a picture of {thing}", "a photo of {thing}", "an emoji of {thing}")
COLOURED = (
    "{thing} on {tone} background",
    "{thing}, {colour} background",
    "{tone} picture of {thing}",
)
PAIRS = 8_000
"""Captions that name two objects: a sample of the 22,350 pairs."""


@dataclass(frozen=True, slots=True)
class Caption:
    """A caption and what it promises."""

    text: str
    objects: tuple[str, ...]
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One drawing placed on the canvas; `x`, `y` is its upper left corner in pixels."""

    name: str
    design: str
    size: int
    x: int
    y: int
    mirrored: bool


@dataclass(frozen=True, slots=True)
class Scene:
    """A background of one or two colours (0..255) and the drawings on it, back to front."""

    colours: tuple[tuple[int, int, int], ...]
    split: tuple[float, float, float]
    items: tuple[Item, ...]


def article(name: str) -> str:
    if name in ("fries", "scissors", "headphones"):
        return name
    return f"an {name}" if name[0] in "aeiou" and name != "ufo" else f"a {name}"


def say(form: str, thing: str, colour: str | None) -> str:
    return form.format(thing=thing, colour=colour, tone=article(colour) if colour else None)


def pick(draw: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(draw.integers(len(options)))]


@cache
def captions() -> tuple[tuple[Caption, ...], tuple[Caption, ...]]:
    """All captions of one object, and a fixed sample of those of two."""
    singles = []
    for name in emoji.names():
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
        first, second = draw.choice(len(emoji.names()), 2, replace=False)
        pair = (emoji.names()[first], emoji.names()[second])
        thing = f"{article(pair[0])} {pick(draw, ('and', 'next to'))} {article(pair[1])}"
        colour = pick(draw, NAMES) if draw.random() < 0.6 else None
        form = pick(draw, PLAIN if colour is None else COLOURED)
        doubles.add(Caption(say(form, thing, colour), pair, colour))
    return tuple(singles), tuple(sorted(doubles, key=lambda caption: caption.text))


def paint(draw: np.random.Generator, colour: str) -> tuple[int, int, int]:
    """A shade of a named colour, near enough to deserve the name."""
    shade = np.array(COLOURS[colour]) + draw.normal(0, 9, 3) + draw.normal(0, 8)
    red, green, blue = (int(value) for value in np.clip(shade.round(), 0, 255))
    return red, green, blue


def place(draw: np.random.Generator, name: str, size: int, box: tuple[int, int, int, int]) -> Item:
    """An object somewhere inside a box (left, top, right, bottom)."""
    left, top, right, bottom = box
    return Item(
        name,
        pick(draw, emoji.DESIGNS),
        size,
        int(draw.integers(left, max(left, right - size) + 1)),
        int(draw.integers(top, max(top, bottom - size) + 1)),
        bool(draw.random() < 0.5),
    )


def compose(draw: np.random.Generator, caption: Caption) -> Scene:
    """A scene that keeps the caption's promise."""
    colour = caption.colour or pick(draw, NAMES)
    colours: tuple[tuple[int, int, int], ...] = (paint(draw, colour),)
    split = (1.0, 0.0, 0.5)
    if caption.colour is None and draw.random() < 0.3:
        colours += (paint(draw, pick(draw, NAMES)),)
        split = random_split(draw)
    if len(caption.objects) == 1:
        size = 2 * int(draw.integers(14, 25))
        items = [place(draw, caption.objects[0], size, (0, 0, SIZE, SIZE))]
    else:
        half = SIZE // 2
        boxes = [(0, 0, half, SIZE), (half, 0, SIZE, SIZE)]
        if draw.random() < 0.5:
            boxes = [(0, 0, SIZE, half), (0, half, SIZE, SIZE)]
        if draw.random() < 0.5:
            boxes.reverse()
        items = [
            place(draw, name, 2 * int(draw.integers(11, 17)), box)
            for name, box in zip(caption.objects, boxes, strict=True)
        ]
    return Scene(colours, split, tuple(items))


def snapped(scene: Scene) -> Scene:
    """The scene with the corners and sizes of its objects on a grid of `GRID` pixels.

    Latents are a fourth as fine: on their grid an object looks the same wherever it stands, and is
    learned once.
    """
    items = []
    for item in scene.items:
        size = GRID * round(item.size / GRID)
        x, y = (min(GRID * round(corner / GRID), SIZE - size) for corner in (item.x, item.y))
        items.append(replace(item, size=size, x=x, y=y))
    return replace(scene, items=tuple(items))


def random_split(draw: np.random.Generator) -> tuple[float, float, float]:
    """A line that divides the canvas: its normal (two numbers) and its offset in 0..1."""
    angle = draw.uniform(0, 2 * np.pi)
    return float(np.cos(angle)), float(np.sin(angle)), float(draw.uniform(0.35, 0.65))


def busy(draw: np.random.Generator) -> Scene:
    """A crowded scene on two colours, of the kind that the duplicated images are."""
    first, second = draw.permutation(len(NAMES))[:2]
    cells = draw.permutation(9)[: draw.integers(4, 7)]
    items = []
    for cell in cells:
        size = 2 * int(draw.integers(9, 14))
        left = int(cell % 3) * 21 + int(draw.integers(-3, 4))
        top = int(cell // 3) * 21 + int(draw.integers(-3, 4))
        x, y = (min(max(0, corner), SIZE - size) for corner in (left, top))
        name = pick(draw, emoji.names())
        mirrored = bool(draw.random() < 0.5)
        items.append(Item(name, pick(draw, emoji.DESIGNS), size, x, y, mirrored))
    colours = (paint(draw, NAMES[first]), paint(draw, NAMES[second]))
    return Scene(colours, random_split(draw), tuple(items))


def render(scene: Scene) -> np.ndarray:
    """The picture, `[64, 64, 3]` uint8."""
    canvas = np.empty((SIZE, SIZE, 3), np.float32)
    canvas[:] = np.array(scene.colours[0], np.float32) / 255
    if len(scene.colours) == 2:
        canvas[beyond(scene.split)] = np.array(scene.colours[1], np.float32) / 255
    for item in scene.items:
        drawing = emoji.sprite(item.name, item.design, item.size, item.mirrored)
        window = canvas[item.y : item.y + item.size, item.x : item.x + item.size]
        window *= 1 - drawing[..., 3:]
        window += drawing[..., :3]
    return (canvas.clip(0, 1) * 255).round().astype(np.uint8)


def beyond(split: tuple[float, float, float]) -> np.ndarray:
    """The pixels on the far side of a dividing line, `[64, 64]` bool."""
    across, down, offset = split
    rows, columns = np.mgrid[0:SIZE, 0:SIZE] / (SIZE - 1) - 0.5
    return across * columns + down * rows > offset - 0.5


def scene(seed: int, index: int) -> tuple[Caption, Scene]:
    """The scene of that number in the stream of that seed, with its caption.

    >>> caption, what = scene(0, 7)
    >>> render(what).shape
    (64, 64, 3)
    """
    draw = np.random.default_rng((seed, index))
    singles, doubles = captions()
    pool = singles if draw.random() < 0.75 else doubles
    caption = pool[draw.integers(len(pool))]
    return caption, compose(draw, caption)
