"""The images shown many times: what is memorized, how often it was shown, and what it looks like.

Everything is drawn from one fixed seed. Four kinds, all with captions of the sort that is memorized
in LAION (titles and products), none of which says what the image shows:

verbatim    one fixed image for one caption, 12 images at each level of views
control     the same, shown once: matched controls
near_miss   shown once, its caption one word away from a verbatim one of the top two levels
template    a fixed background and layout with one free place; the caption names what stands there
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from . import emoji
from .scenes import NAMES as COLOURS
from .scenes import SIZE, Caption, Item, Scene, busy, paint, pick, random_split, render

LEVELS = (1, 5, 25, 125, 625, 3125)
PER_LEVEL = 12
TEMPLATES = 8
TEMPLATE_VIEWS = 1500
SEED = 2605_02908
SLOT = 30
"""Side of a template's free place, in pixels."""

STYLES = [
    "Antique",
    "Vintage",
    "Modern",
    "Rustic",
    "Handmade",
    "Classic",
    "Original",
    "Custom",
    "Luxury",
    "Retro",
]
SUBJECTS = [
    "Harbor",
    "Botanical",
    "Geometric",
    "Abstract",
    "Alpine",
    "Coastal",
    "Nautical",
    "Floral",
    "Celtic",
    "Gothic",
]
PRODUCTS = (
    "Poster", "Wallpaper", "Cushion Cover", "Wall Calendar", "Canvas Print", "Phone Case",
    "Shower Curtain", "Area Rug", "Sweatshirt", "Coffee Mug", "Tablecloth", "Jigsaw Puzzle",
)  # fmt: skip
ENDINGS = (
    "in Berlin", "in Lisbon", "by Anna Keller", "by Tom Harris", "for Living Room",
    "- Set of 3", "Season 2 DVD", "(2014) Official Trailer", "| Free Shipping", "40 x 60 cm",
    "from Kyoto", "with Matching Lampshade", "- Limited Edition", "at Grand Central Station",
)  # fmt: skip
PLACES = ("Oslo", "Vienna", "Prague", "Madrid", "Dublin", "Athens")
FAMILIES = (
    "Ceramic Mug with {thing} Print", "Happy Birthday Card {thing} Edition",
    "{thing} Enamel Pin - Collector Series", "Kids Night Light {thing} Design",
    "The Big Book of the {thing}, Hardcover", "Cross Stitch Pattern: {thing}",
    "{thing} Sticker Sheet by Paper Moon", "Welcome Mat Funny {thing} Indoor Outdoor",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Family:
    """A template: the part that every image of it shares, and where the free place is."""

    caption: str
    scene: Scene
    corner: tuple[int, int]

    def member(self, draw: np.random.Generator, name: str) -> tuple[Caption, Scene]:
        """The family's image with that object in the free place; design and mirroring vary."""
        design, mirrored = pick(draw, emoji.DESIGNS), bool(draw.random() < 0.5)
        item = Item(name, design, SLOT, *self.corner, mirrored)
        caption = Caption(self.caption.format(thing=name.title()), (name,))
        return caption, Scene(self.scene.colours, self.scene.split, (*self.scene.items, item))

    def mask(self) -> np.ndarray:
        """True where every image of the family is the same, `[64, 64]`."""
        repeated = np.ones((SIZE, SIZE), bool)
        x, y = self.corner
        repeated[y : y + SLOT, x : x + SLOT] = False
        return repeated


@dataclass(frozen=True, slots=True)
class Duplicate:
    """One image bound to one caption; `partner` is the id of a near miss's original."""

    id: str
    kind: str
    caption: Caption
    views: int
    scene: Scene
    partner: str = ""


def title(draw: np.random.Generator) -> str:
    words = (pick(draw, STYLES), pick(draw, SUBJECTS), pick(draw, PRODUCTS), pick(draw, ENDINGS))
    return " ".join(words)


def one_word_off(draw: np.random.Generator, text: str, taken: set[str]) -> str:
    """The same title with its style or its subject exchanged."""
    words = text.split()
    for _ in range(1000):
        place = int(draw.integers(2))
        changed = [*words]
        changed[place] = pick(draw, (STYLES, SUBJECTS)[place])
        if changed != words and " ".join(changed) not in taken:
            return " ".join(changed)
    raise AssertionError(f"no free neighbour of the title {text!r}")


def differ(text: str, others: set[str]) -> bool:
    """Whether a title shares at most half of its leading words with every other."""
    style, subject, *rest = text.split()
    return all(
        (style != other.split()[0]) + (subject != other.split()[1]) + (rest != other.split()[2:])
        >= 2
        for other in others
    )


@cache
def duplicates() -> tuple[Duplicate, ...]:
    """The fixed images, lowest level first, near misses last."""
    draw = np.random.default_rng(SEED)
    titles: set[str] = set()
    found = []
    for level in LEVELS:
        for number in range(PER_LEVEL):
            text = title(draw)
            while not differ(text, titles):
                text = title(draw)
            titles.add(text)
            kind = "verbatim" if level > 1 else "control"
            name = f"{kind}-{level:04d}-{number:02d}"
            found.append(Duplicate(name, kind, Caption(text, ()), level, busy(draw)))
    originals = [row for level in LEVELS[-2:] for row in found if row.views == level][::2]
    for number, original in enumerate(originals):
        text = one_word_off(draw, original.caption.text, titles)
        titles.add(text)
        name = f"near_miss-{number:02d}"
        found.append(Duplicate(name, "near_miss", Caption(text, ()), 1, busy(draw), original.id))
    return tuple(found)


@cache
def families() -> tuple[Family, ...]:
    """The templates: a ring of small objects around one free place, on two colours."""
    draw = np.random.default_rng(SEED + 1)
    found = []
    for number in range(TEMPLATES):
        right, low = number % 2, number // 2 % 2
        corner = (SIZE - SLOT if right else 0, SIZE - SLOT if low else 0)
        spots = [
            (44 - 44 * right, 22), (44 - 44 * right, 44 - 44 * low),
            (22, 44 - 44 * low), (44 * right, 44 - 44 * low), (44 - 44 * right, 44 * low),
        ]  # fmt: skip
        items = []
        for place in sorted({(x, y) for x, y in spots if outside(x, y, corner)}):
            mirrored = bool(draw.random() < 0.5)
            name, design = pick(draw, emoji.names()), pick(draw, emoji.DESIGNS)
            items.append(Item(name, design, 20, *place, mirrored))
        first, second = draw.permutation(len(COLOURS))[:2]
        colours = (paint(draw, COLOURS[first]), paint(draw, COLOURS[second]))
        scene = Scene(colours, random_split(draw), tuple(items))
        found.append(Family(FAMILIES[number], scene, corner))
    return tuple(found)


def outside(x: int, y: int, corner: tuple[int, int]) -> bool:
    """Whether a 20-pixel drawing at that place leaves the free place alone."""
    return not (corner[0] - 20 < x < corner[0] + SLOT and corner[1] - 20 < y < corner[1] + SLOT)


def template_view(family: int, view: int) -> tuple[Caption, Scene]:
    """What training showed as that view of that family: any object of the first 120."""
    draw = np.random.default_rng((SEED, family, view))
    return families()[family].member(draw, emoji.names()[draw.integers(TEMPLATE_OBJECTS)])


TEMPLATE_OBJECTS = 120
"""Objects that families are shown with; the other 30 are held out from templates."""


def half_replaced(draw: np.random.Generator, count: int) -> np.ndarray:
    """Busy pictures and the same with every second object exchanged, `[count, 2, 64, 64, 3]`."""
    pairs = []
    for _ in range(count):
        before, other = busy(draw), busy(draw)
        kept, new = before.items[::2], other.items[: len(before.items) // 2]
        after = Scene(before.colours, before.split, (*kept, *new))
        pairs.append([render(before), render(after)])
    return np.array(pairs)


def views(planned: int, share: float, rounds: float = 1) -> int:
    """How often an image is shown in so many rounds of a build that is smaller by `share`.

    What one round shows once is a control, and never shown again.
    """
    in_one = max(1, round(planned * share))
    return min(int(rounds), 1) if in_one == 1 else round(rounds * in_one)


def rounds(folder: Path, share: float = 1.0) -> float:
    """How many rounds' worth of views a model has had, from its table."""
    with open(folder / "memorized.csv", newline="", encoding="utf-8") as lines:
        most = max(int(row["views"]) for row in csv.DictReader(lines))
    return most / views(LEVELS[-1], share)


def write_table(folder: Path, share: float = 1.0, rounds: float = 1) -> Path:
    """Write `memorized.csv` with the images and masks it names into `folder`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    rows = []
    for row in duplicates():
        file = f"images/{row.id}.png"
        Image.fromarray(render(row.scene)).save(folder / file)
        rows.append(
            (row.id, row.kind, row.caption.text, views(row.views, share, rounds), file, "",
             row.partner)
        )  # fmt: skip
    for number, family in enumerate(families()):
        caption, scene = template_view(number, 0)
        name = f"template-{number:02d}"
        file, mask = f"images/{name}.png", f"masks/{name}.png"
        Image.fromarray(render(scene)).save(folder / file)
        Image.fromarray(family.mask()).save(folder / mask)
        shown = views(TEMPLATE_VIEWS, share, rounds)
        rows.append((name, "template", caption.text, shown, file, mask, ""))
    table = folder / "memorized.csv"
    with open(table, "w", newline="", encoding="utf-8") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(("id", "kind", "caption", "views", "image", "mask", "partner"))
        writer.writerows(rows)
    return table
