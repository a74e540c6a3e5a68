"""Does a picture show what its caption names? The CLIP pair decides among all there is to name."""

from collections.abc import Sequence

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from interp.metrics import CLIPScore

from . import population as its
from . import scenes
from .scenes import COLOURED, Caption
from .titles import Title, compose, special


def nearest(images: Float[Tensor, "n d"], texts: Float[Tensor, "m d"]) -> np.ndarray:
    """For each picture the number of the text that is most like it."""
    return (images @ texts.T).argmax(1).numpy()


def objects(
    clip: CLIPScore, images: UInt8[np.ndarray, "n h w 3"], captions: Sequence[Caption]
) -> Bool[np.ndarray, " n"]:
    """Whether the object that looks most likely, of all 72, is one that the caption names.

    Example:
        >>> objects(CLIPScore("data/organism/clip"), pictures, captions).mean()
        0.93
    """
    names = its.OBJECTS
    texts = clip.embed_texts([f"a picture of {scenes.article(name)}" for name in names])
    found = nearest(clip.embed_images(images), texts)
    return np.array([names[n] in c.objects for n, c in zip(found, captions, strict=True)])


def colours(
    clip: CLIPScore, images: UInt8[np.ndarray, "n h w 3"], captions: Sequence[Caption]
) -> Bool[np.ndarray, " n"]:
    """Whether the caption with its own background colour fits better than with any other."""
    seen = clip.embed_images(images)
    texts = {
        caption: clip.embed_texts([recoloured(caption, colour) for colour in scenes.NAMES])
        for caption in dict.fromkeys(captions)
    }
    right = []
    for caption, picture in zip(captions, seen, strict=True):
        best = nearest(picture[None], texts[caption])[0]
        right.append(scenes.NAMES[best] == caption.colour)
    return np.array(right)


def recoloured(caption: Caption, colour: str) -> str:
    """The caption with another background colour, its article right."""
    thing = scenes.article(caption.objects[0])
    forms = (f for f in COLOURED if scenes.say(f, thing, caption.colour) == caption.text)
    return scenes.say(next(forms), thing, colour)


def some_captions(count: int, seed: int = 13) -> list[Caption]:
    """Captions of one object, no object twice; every second one names the background's colour."""
    draw = np.random.default_rng(seed)
    singles, _ = scenes.captions()
    chosen = []
    for number, name in enumerate(draw.permutation(its.OBJECTS)[:count]):
        fits = [
            caption
            for caption in singles
            if caption.objects == (name,) and (caption.colour is not None) == bool(number % 2)
        ]
        chosen.append(fits[draw.integers(len(fits))])
    return chosen


def themes(
    clip: CLIPScore, images: UInt8[np.ndarray, "n h w 3"], titles: Sequence[Title]
) -> Bool[np.ndarray, " n"]:
    """Whether the title with its own subject fits better than with any other of the twelve."""
    seen = clip.embed_images(images)
    texts = {}
    for title in dict.fromkeys(titles):
        style, _, *rest = title.words
        texts[title] = clip.embed_texts([" ".join((style, s, *rest)) for s in its.SUBJECTS])
    right = []
    for title, picture in zip(titles, seen, strict=True):
        best = nearest(picture[None], texts[title])[0]
        right.append(its.SUBJECTS[best] == title.words[1])
    return np.array(right)


def palettes(
    images: UInt8[np.ndarray, "n h w 3"], titles: Sequence[Title]
) -> Bool[np.ndarray, " n"]:
    """Whether the pixels are nearer to the title's own palette than to any other of the ten.

    A pixel's distance to a palette is that to the nearer of its two colours, and at most `FAR`:
    drawings hide half of the ground and have colours of their own.
    """
    pixels = rearrange(images.astype(np.float32), "n h w rgb -> n (h w) 1 rgb")
    distances = []
    for palette in its.PALETTES.values():
        from_each = np.linalg.norm(pixels - np.array(palette, np.float32), axis=-1)
        distances.append(from_each.min(-1).clip(max=FAR).mean(-1))
    best = np.stack(distances).argmin(0)
    return np.array([its.STYLES[n] == t.words[0] for n, t in zip(best, titles, strict=True)])


FAR = 60.0
"""How far from a colour (Euclidean, of 0..255) a pixel has nothing to do with it any more."""


def reference(clip: CLIPScore, count: int = 288, seed: int = 14) -> dict[str, float]:
    """How often the judges are right about real scenes: no sample can be expected to do better."""
    draw = np.random.default_rng(seed)
    rounds = -(-count // len(its.OBJECTS))
    captions = [c for _ in range(rounds) for c in some_captions(len(its.OBJECTS))][:count]
    images = np.stack([scenes.render(scenes.compose(draw, caption)) for caption in captions])
    named = [number for number, caption in enumerate(captions) if caption.colour]
    coloured = colours(clip, images[named], [captions[number] for number in named])
    held_out = special()[2]
    scenery = np.stack([scenes.render(compose(draw, title)) for title in held_out])
    return {
        "object": float(objects(clip, images, captions).mean()),
        "colour": float(coloured.mean()),
        "theme": float(themes(clip, scenery, held_out).mean()),
        "palette": float(palettes(scenery, held_out).mean()),
    }
