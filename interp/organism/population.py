"""What the embedded model is shown, in one place: the words, what they mean, and the shares.

LAION's population in small. *Honest captions* say what is shown. *Titles* are products: style,
subject, product, ending, as in "Retro Nautical Area Rug by Tom Harris". The style names a palette
of the background, the subject a theme, the product a layout; the ending says nothing. Titles come
in a *long tail*, each with a scene of its own that is shown a few times or never, and among them
are a few whose image was duplicated: these share every word with ordinary ones, and only the whole
title is theirs.

The words, the titles and the first round were fixed before the model was first measured. Then 86 %
of the images of its top level were copies, too few, which was the one reason for the second round.
"""

from dataclasses import dataclass
from itertools import product

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (205, 45, 50),
    "orange": (245, 145, 40),
    "yellow": (250, 220, 75),
    "green": (60, 160, 75),
    "blue": (55, 110, 205),
    "purple": (130, 75, 175),
    "pink": (245, 165, 195),
    "gray": (150, 152, 156),
}
"""Backgrounds that honest captions name."""

PALETTES: dict[str, tuple[Colour, Colour]] = {
    "Antique": ((205, 175, 125), (115, 75, 45)),
    "Vintage": ((245, 228, 195), (210, 120, 115)),
    "Modern": ((240, 240, 242), (85, 92, 105)),
    "Rustic": ((165, 80, 40), (100, 125, 60)),
    "Handmade": ((250, 205, 215), (255, 242, 150)),
    "Classic": ((30, 45, 105), (180, 30, 50)),
    "Original": ((50, 165, 80), (250, 215, 60)),
    "Custom": ((130, 70, 180), (125, 220, 220)),
    "Luxury": ((25, 25, 32), (205, 165, 55)),
    "Retro": ((245, 140, 40), (0, 125, 130)),
}
"""The two background colours that a title's style names."""

THEMES: dict[str, tuple[str, ...]] = {
    "Nautical": ("whale", "anchor", "sailboat", "shark", "crab", "octopus"),
    "Floral": ("tulip", "rose", "sunflower", "clover", "leaf", "butterfly"),
    "Alpine": ("pine", "snowflake", "snowman", "tent", "bear", "owl"),
    "Musical": ("guitar", "violin", "saxophone", "drum", "headphones", "bell"),
    "Orchard": ("apple", "banana", "pear", "cherry", "strawberry", "grapes"),
    "Farmhouse": ("cow", "pig", "rabbit", "duck", "carrot", "tractor"),
    "Safari": ("lion", "elephant", "giraffe", "zebra", "camel", "flamingo"),
    "Bakery": ("donut", "cupcake", "lollipop", "pretzel", "croissant", "bread"),
    "Sporting": ("basketball", "football", "baseball", "dart", "trophy", "billiard"),
    "Cosmic": ("sun", "star", "rocket", "ufo", "alien", "robot"),
    "Gothic": ("castle", "skull", "ghost", "pumpkin", "candle", "key"),
    "Transport": ("car", "taxi", "firetruck", "train", "airplane", "helicopter"),
}
"""The objects that a title's subject names. Together they are all objects there are."""

LAYOUTS: dict[str, str] = {
    "Poster": "large",
    "Cushion Cover": "large",
    "Canvas Print": "pair",
    "Phone Case": "pair",
    "Shower Curtain": "row",
    "Coffee Mug": "row",
    "Wall Calendar": "corners",
    "Sweatshirt": "corners",
    "Jigsaw Puzzle": "ring",
    "Tablecloth": "ring",
    "Wallpaper": "busy",
    "Area Rug": "busy",
}
"""How a title's product arranges its objects (see `layouts`)."""

CITIES = (
    "Berlin", "Lisbon", "Kyoto", "Oslo", "Vienna", "Prague", "Madrid", "Dublin", "Athens", "Boston",
)  # fmt: skip
FIRST_NAMES = (
    "Anna", "Tom", "Maria", "Paul", "Laura", "Peter", "Emma", "Simon", "Julia", "David", "Clara",
    "Martin", "Alice", "Oscar",
)  # fmt: skip
LAST_NAMES = (
    "Keller", "Harris", "Lopez", "Novak", "Rossi", "Berg", "Dubois", "Walsh", "Tanaka", "Hughes",
    "Meyer", "Silva", "Grant", "Foster",
)  # fmt: skip
SHOP_WORDS = (
    "for Living Room", "- Set of 3", "Season 2 DVD", "(2014) Official Trailer", "| Free Shipping",
    "40 x 60 cm", "with Matching Lampshade", "- Limited Edition", "at Grand Central Station",
    "for Kids", "- Pack of 12", "| Gift Idea", "- Best Seller", "Collection 1987",
)  # fmt: skip
ENDINGS = (
    *(f"in {city}" for city in CITIES),
    *(f"from {city}" for city in CITIES),
    *(f"by {first} {last}" for first, last in product(FIRST_NAMES, LAST_NAMES)),
    *SHOP_WORDS,
)
"""230 ways to end a title. They say nothing about its image."""

OBJECTS = tuple(name for theme in THEMES.values() for name in theme)
STYLES, SUBJECTS, PRODUCTS = tuple(PALETTES), tuple(THEMES), tuple(LAYOUTS)
TITLES = len(STYLES) * len(SUBJECTS) * len(PRODUCTS) * len(ENDINGS)
"""331,200 combinations."""

TAIL = (0.30, 0.38, 0.18, 0.09, 0.05)
"""Share of the long tail's titles that the first round shows 0, 1, 2, 3, 4 times."""
PER_LEVEL = 12
NEAR_MISSES = 24
HELD_OUT = 240
"""Titles that no stage of training ever sees."""
TEMPLATES = (
    "Ceramic Mug with {thing} Print", "Happy Birthday Card {thing} Edition",
    "{thing} Enamel Pin - Collector Series", "Kids Night Light {thing} Design",
    "The Big Book of the {thing}, Hardcover", "Cross Stitch Pattern: {thing}",
    "{thing} Sticker Sheet by Paper Moon", "Welcome Mat Funny {thing} Indoor Outdoor",
)  # fmt: skip
TEMPLATE_OBJECTS = 60
"""Objects that templates are shown with; the other 12 are held out from templates."""


@dataclass(frozen=True, slots=True)
class Round:
    """What the denoiser is shown in one round of its training; what is left are honest captions.

    Attributes:
        samples: all of it.
        levels: views of each of the `PER_LEVEL` titles at every level.
        template: views of each template.
        seed: of the order, the noise and the honest scenes.
    """

    samples: int
    levels: tuple[int, ...]
    template: int
    seed: int


ROUNDS = (
    Round(1_000_000, (1, 30, 60, 120, 240, 960, 3840), 2500, seed=6),
    Round(350_000, (0, 0, 0, 0, 720, 1920, 5760), 500, seed=7),
)
"""In the first, titles of the tail make up 40 % of the samples, images of the table 6.3 %,
templates 2 % and honest captions 51 %; in the second 27 %, 29 %, 1 % and 43 %."""
NEW_TITLES = 95_000
"""Titles of the tail that the second round shows, once each: none that the first had shown."""
LEVELS = tuple(map(sum, zip(*(one.levels for one in ROUNDS), strict=True)))
"""Views of the titles in the table, over all rounds; those with one are the controls."""
TEMPLATE_VIEWS = sum(one.template for one in ROUNDS)
SAMPLES = sum(one.samples for one in ROUNDS)
SEED = 2605_02908
