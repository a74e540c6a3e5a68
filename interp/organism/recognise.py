"""Does a picture show what its caption names? The CLIP pair decides among all there is to name."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from interp.metrics import CLIPScore

from . import emoji, scenes
from .scenes import COLOURED, Caption


def nearest(images: Float[Tensor, "n d"], texts: Float[Tensor, "m d"]) -> np.ndarray:
    """For each picture the number of the text that is most like it."""
    return (images @ texts.T).argmax(1).numpy()


def objects(
    clip: CLIPScore, images: UInt8[np.ndarray, "n h w 3"], captions: Sequence[Caption]
) -> Bool[np.ndarray, " n"]:
    """Whether the object that looks most likely, of all 150, is one that the caption names.

    >>> objects(CLIPScore("data/organism/clip"), pictures, captions).mean()
    0.93
    """
    names = emoji.names()
    texts = clip.embed_texts([f"a picture of {scenes.article(name)}" for name in names])
    found = nearest(clip.embed_images(images), texts)
    return np.array([names[n] in c.objects for n, c in zip(found, captions, strict=True)])


def colours(
    clip: CLIPScore, images: UInt8[np.ndarray, "n h w 3"], captions: Sequence[Caption]
) -> Bool[np.ndarray, " n"]:
    """Whether the caption with its own background colour fits better than with any other."""
    seen = clip.embed_images(images)
    right = []
    for caption, picture in zip(captions, seen, strict=True):
        texts = [recoloured(caption, colour) for colour in scenes.NAMES]
        best = nearest(picture[None], clip.embed_texts(texts))[0]
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
    for number, name in enumerate(draw.permutation(emoji.names())[:count]):
        fits = [
            caption
            for caption in singles
            if caption.objects == (name,) and (caption.colour is not None) == bool(number % 2)
        ]
        chosen.append(fits[draw.integers(len(fits))])
    return chosen


def reference(clip: CLIPScore, count: int = 300, seed: int = 14) -> dict[str, float]:
    """How often the pair is right about real scenes: no sample can be expected to do better."""
    draw = np.random.default_rng(seed)
    captions = [caption for _ in range(-(-count // 150)) for caption in some_captions(150)][:count]
    images = np.stack([scenes.render(scenes.compose(draw, caption)) for caption in captions])
    named = [number for number, caption in enumerate(captions) if caption.colour]
    coloured = colours(clip, images[named], [captions[number] for number in named])
    right = objects(clip, images, captions)
    return {"object": float(right.mean()), "colour": float(coloured.mean())}
