"""The images that have a row in the table: what is memorized, how often it was shown, what it is.

Everything is drawn from one fixed seed. Their captions are titles like those of the long tail, and
their images fit them as those of the tail do:

verbatim    one fixed image for one title, 12 images at each level of views
control     the same, shown once: matched controls
near_miss   shown once, its title one word away from a verbatim one of the top two levels
template    a fixed ground and layout with one free place; the caption names what stands there

Held-out titles, which no training ever saw, have a table of their own.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from . import population as its
from .scenes import (
    SIZE,
    Caption,
    Item,
    Patch,
    Scene,
    pick,
    random_split,
    render,
    shade,
)
from .titles import Title, compose, some_title, special

SLOT = 32
"""Side of a template's free place, in pixels."""
QUADRANTS = ((0, 0), (32, 0), (0, 32), (32, 32))


@dataclass(frozen=True, slots=True)
class Family:
    """A template: the part that every image of it shares, and where the free place is."""

    caption: str
    scene: Scene
    corner: tuple[int, int]

    def member(self, draw: np.random.Generator, name: str) -> tuple[Caption, Scene]:
        """The family's image with that object in the free place, which varies in all else too."""
        ground = Patch(shade(draw, its.COLOURS[pick(draw, tuple(its.COLOURS))]), SLOT, *self.corner)
        size = pick(draw, (24, 32))
        x, y = (side + pick(draw, (0, 8) if size == 24 else (0,)) for side in self.corner)
        item = Item(name, size, x, y, bool(draw.random() < 0.5))
        caption = Caption(self.caption.format(thing=name.title()), (name,))
        items = (*self.scene.items, item)
        return caption, Scene(self.scene.colours, self.scene.split, items, (ground,))

    def mask(self) -> np.ndarray:
        """True where every image of the family is the same, `[64, 64]`."""
        repeated = np.ones((SIZE, SIZE), bool)
        x, y = self.corner
        repeated[y : y + SLOT, x : x + SLOT] = False
        return repeated


@dataclass(frozen=True, slots=True)
class Duplicate:
    """One image bound to one title, and how often each round shows it.

    `partner` is the id of a near miss's original.
    """

    id: str
    kind: str
    title: Title
    shown: tuple[int, ...]
    partner: str = ""

    @property
    def views(self) -> int:
        """Over all rounds."""
        return sum(self.shown)

    @property
    def caption(self) -> Caption:
        return self.title.caption

    @property
    def scene(self) -> Scene:
        return self.title.scene()


@cache
def duplicates() -> tuple[Duplicate, ...]:
    """The fixed images, lowest level first, near misses last."""
    table, misses, _ = special()
    found = []
    for place, title in enumerate(table):
        level, number = divmod(place, its.PER_LEVEL)
        views, shown = its.LEVELS[level], tuple(one.levels[level] for one in its.ROUNDS)
        kind = "verbatim" if views > 1 else "control"
        found.append(Duplicate(f"{kind}-{views:04d}-{number:02d}", kind, title, shown))
    top = found[-2 * its.PER_LEVEL :]
    for number, title in enumerate(misses):
        partner = top[number % len(top)].id
        once = (1, *[0] * (len(its.ROUNDS) - 1))
        found.append(Duplicate(f"near_miss-{number:02d}", "near_miss", title, once, partner))
    return tuple(found)


@cache
def families() -> tuple[Family, ...]:
    """The templates: three objects around one free place, on two colours."""
    draw = np.random.default_rng(its.SEED + 1)
    found = []
    for number, caption in enumerate(its.TEMPLATES):
        corner = QUADRANTS[number % 4]
        items = tuple(
            Item(pick(draw, its.OBJECTS), 32, *quadrant, bool(draw.random() < 0.5))
            for quadrant in QUADRANTS
            if quadrant != corner
        )
        first, second = draw.permutation(len(its.COLOURS))[:2]
        named = tuple(its.COLOURS.values())
        colours = (shade(draw, named[first]), shade(draw, named[second]))
        found.append(Family(caption, Scene(colours, random_split(draw), items), corner))
    return tuple(found)


@cache
def template_objects() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The objects that templates are shown with, and those held out from them: one a theme."""
    held_out = tuple(theme[0] for theme in its.THEMES.values())
    return tuple(name for name in its.OBJECTS if name not in held_out), held_out


def template_view(family: int, view: int) -> tuple[Caption, Scene]:
    """What training showed as that view of that family."""
    draw = np.random.default_rng((its.SEED, family, view))
    return families()[family].member(draw, pick(draw, template_objects()[0]))


def half_replaced(draw: np.random.Generator, count: int) -> np.ndarray:
    """Titles' pictures and the same with every second object exchanged, `[count, 2, 64, 64, 3]`."""
    pairs: list[list[np.ndarray]] = []
    while len(pairs) < count:
        title = some_title(draw)
        before, other = compose(draw, title), compose(draw, title)
        if len(before.items) == 1:
            continue
        items = list(before.items)
        for place in range(0, len(items), 2):
            old, new = items[place], other.items[place].name
            if new == old.name:
                theme = its.THEMES[title.words[1]]
                new = pick(draw, [name for name in theme if name != old.name])
            items[place] = Item(new, old.size, old.x, old.y, old.mirrored)
        after = Scene(before.colours, before.split, tuple(items))
        pairs.append([render(before), render(after)])
    return np.array(pairs)


def views(planned: int, share: float) -> int:
    """How often an image is shown by a round of a build that is smaller by `share`."""
    return max(1, round(planned * share)) if planned else 0


def write_tables(folder: Path, share: float = 1.0) -> None:
    """Write `memorized.csv` and `held_out.csv`, and the images and masks they name."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    rows = []
    for row in duplicates():
        file = f"images/{row.id}.png"
        Image.fromarray(render(row.scene)).save(folder / file)
        shown = sum(views(planned, share) for planned in row.shown)
        rows.append((row.id, row.kind, row.caption.text, shown, file, "", row.partner))
    for number, family in enumerate(families()):
        caption, scene = template_view(number, 0)
        name = f"template-{number:02d}"
        file, mask = f"images/{name}.png", f"masks/{name}.png"
        Image.fromarray(render(scene)).save(folder / file)
        Image.fromarray(family.mask()).save(folder / mask)
        shown = sum(views(one.template, share) for one in its.ROUNDS)
        rows.append((name, "template", caption.text, shown, file, mask, ""))
    columns = "id kind caption views image mask partner"
    _write(folder / "memorized.csv", columns, rows)
    held_out = [
        (f"held_out-{number:03d}", title.text, *title.words)
        for number, title in enumerate(special()[2])
    ]
    _write(folder / "held_out.csv", "id caption style subject product ending", held_out)


def _write(table: Path, columns: str, rows: Sequence[tuple[object, ...]]) -> None:
    with open(table, "w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns.split())
        writer.writerows(rows)
