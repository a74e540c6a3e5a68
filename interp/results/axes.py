"""The names of the axes of every result, written once, and their order."""

from collections.abc import Sequence

DIMS = ("prompt", "seed", "step", "layer", "head", "category")
POSITION = "position"
SPACE = ("y", "x")
#: Axes of pixels and latents. Maps have `y` and `x` of their own, of another size.
PIXELS = ("pixel_y", "pixel_x", "rgb")
LATENT = ("channel", "latent_y", "latent_x")


def ordered(dims: Sequence[str]) -> tuple[str, ...]:
    """The given axis names in the toolkit's order, unknown ones last.

    Example:
        >>> ordered(["category", "layer", "method"])     # ('layer', 'category', 'method')
    """
    known = (*DIMS, POSITION, *SPACE)
    rank = {name: place for place, name in enumerate(known)}
    return tuple(sorted(dims, key=lambda name: rank.get(name, len(known))))
