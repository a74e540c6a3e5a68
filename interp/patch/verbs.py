"""The verbs that make patches: verb, then what, then where.

    swap("pad", donor=b, layers="up", steps=slice(0, 10), side="k")

Each takes one or several categories and, where they make sense, `layers`, `steps`, `heads`, `side`
and `uncond` (see `Where`). Without these it edits the embeddings of all conditional rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import xarray as xr

from interp.denoiser.layers import Selector
from interp.errors import InterpError
from interp.patch.attenuation import Attenuate
from interp.patch.neurons import Silence
from interp.patch.operations import Align, Copy, Mask, Mean, Noise, Repad, Scale, Swap, Zero
from interp.patch.patch import Patch
from interp.patch.where import Heads, Side, Steps, Uncond, Where
from interp.text.categories import CATEGORIES, selected
from interp.text.donors import as_prompts
from interp.text.prompt import Prompt

__all__ = [
    "Patch", "attenuate", "copy", "mask", "mean", "noise", "repad", "scale", "silence", "swap",
    "zero",
]  # fmt: skip

Names = str | Sequence[str]


def zero(
    category: Names,
    fraction: float = 1.0,
    *,
    layers: Selector = None,
    steps: Steps = None,
    heads: Heads = None,
    side: Side = "kv",
    uncond: Uncond = False,
) -> Patch:
    """Replace embeddings by the zero vector (what Kim & No call masking).

    Example:
        >>> zero("pad", fraction=0.7)

    `fraction` takes only the first `int(n * fraction)` of a category's n positions; of the pads,
    those nearest to the end of the prompt.
    """
    return Patch((Zero(_names(category), Where(layers, steps, heads, side, uncond), fraction),))


def copy(
    source: str,
    to: Names,
    reduce: Literal["mean"] | None = None,
    *,
    layers: Selector = None,
    steps: Steps = None,
    heads: Heads = None,
    side: Side = "kv",
    uncond: Uncond = False,
) -> Patch:
    """Copy the prompt's own `source` embedding, or the mean of several, to every position of `to`.

    Example:
        >>> copy("eot", to="pad")
        >>> copy("pad", to=("prompt", "eot"), reduce="mean")
    """
    (origin,) = _names(source)
    return Patch((Copy(_names(to), Where(layers, steps, heads, side, uncond), origin, reduce),))


def swap(
    category: Names,
    donor: Prompt | xr.Dataset,
    align: Align = "position",
    *,
    layers: Selector = None,
    steps: Steps = None,
    heads: Heads = None,
    side: Side = "kv",
    uncond: Uncond = False,
) -> Patch:
    """Replace embeddings by another prompt's embeddings of the same category.

    Example:
        >>> swap("pad", donor=b, layers="up", steps=slice(0, 10))

    `align` says which of the donor's embeddings a position gets: "position", the one at the same
    position; "offset", the one at the same distance from the category's first; "nearest", the one
    at the same position or, if that has another category, the nearest one that has it; "mean",
    their mean. sot and eot, of which there is one each, are swapped wherever they stand.

    The donor may be a prompt, one with edited embeddings (`dataclasses.replace(b, embeds=...)`), or
    a dataset of one prompt (see `as_dataset`).
    """
    (giver,) = _prompts(donor, "donor", most=1)
    return Patch((Swap(_names(category), Where(layers, steps, heads, side, uncond), giver, align),))


def mean(
    category: Names,
    over: Sequence[Prompt] | xr.Dataset,
    *,
    layers: Selector = None,
    steps: Steps = None,
    heads: Heads = None,
    side: Side = "kv",
    uncond: Uncond = False,
) -> Patch:
    """Replace embeddings by the category's mean over prompts: one vector, each prompt counted once.

    Example:
        >>> mean("pad", over=sd.encode(controls))
    """
    where = Where(layers, steps, heads, side, uncond)
    return Patch((Mean(_names(category), where, _prompts(over, "over")),))


def noise(
    category: Names,
    std: float,
    seed: int,
    *,
    layers: Selector = None,
    steps: Steps = None,
    heads: Heads = None,
    side: Side = "kv",
    uncond: Uncond = False,
) -> Patch:
    """Add Gaussian noise with this standard deviation, the same at every step, layer and row.

    Example:
        >>> noise(CATEGORIES, std=0.1, seed=0)
    """
    return Patch((Noise(_names(category), Where(layers, steps, heads, side, uncond), std, seed),))


def scale(
    category: Names,
    factor: float,
    *,
    layers: Selector = None,
    steps: Steps = None,
    heads: Heads = None,
    side: Side = "k",
    uncond: Uncond = False,
) -> Patch:
    """Multiply keys, and thereby attention logits, by a factor.

    Example:
        >>> scale("sot", 1.25)

    A factor above 1 lowers a negative logit, as in Ren et al. (ECCV 2024). `side="v"` scales the
    values instead, "kv" both.
    """
    return Patch((Scale(_names(category), Where(layers, steps, heads, side, uncond), factor),))


def attenuate(
    factor: float,
    threshold: float,
    category: Names = ("prompt", "eot", "pad"),
    *,
    layers: Selector = None,
    steps: Steps = None,
    heads: Heads = None,
    uncond: Uncond = False,
) -> Patch:
    """Multiply the attention logits of keys that stand out.

    Example:
        >>> attenuate(0.3, threshold=0.1, layers=("down", "mid"))

    In each head, a key stands out whose largest logit over all queries is more than `threshold`
    standard deviations above the mean of those largest logits over all keys but the first token's.
    """
    where = Where(layers, steps, heads, "k", uncond)
    return Patch((Attenuate(_names(category), where, factor, threshold),))


def mask(
    category: Names,
    *,
    layers: Selector = None,
    steps: Steps = None,
    heads: Heads = None,
    uncond: Uncond = False,
    paired: bool = False,
) -> Patch:
    """Remove keys from the softmax, so that the other keys share their attention.

    Example:
        >>> mask(("eot", "pad"), steps=slice(0, 10))

    With `paired`, an unconditional row loses the keys at the positions where the conditional prompt
    of the same image has those categories, rather than its own prompt.
    """
    where = Where(layers, steps, heads, "kv", uncond)
    return Patch((Mask(_names(category), where, paired),))


def repad(
    token: str | int = "!",
    *,
    layers: Selector = None,
    steps: Steps = None,
    heads: Heads = None,
    side: Side = "kv",
    uncond: Uncond = True,
) -> Patch:
    """Encode the prompt again with another pad token, and replace its pads by the new ones.

    Example:
        >>> repad("!") & zero("eot")        # the first mitigation of Kim & No

    By default in unconditional rows too, like the authors' code, which changes the tokenizer's pad
    token; `uncond=False` leaves them alone. Because CLIP is causal, only pads change.
    """
    return Patch((Repad(("pad",), Where(layers, steps, heads, side, uncond), token),))


def silence(
    neurons: Mapping[str, Sequence[int]],
    category: Names = CATEGORIES,
    *,
    steps: Steps = None,
    uncond: Uncond = True,
) -> Patch:
    """Set single neurons of value projections to zero.

    Example:
        >>> silence({"down.1.0": [17, 402], "mid.0": [9]})

    Args:
        neurons: by layer, the outputs of its `to_v`, counted from 0.
        category: the categories at whose positions to silence; all by default.
        steps: UNet calls of a run, counted from 0; all by default.
        uncond: as for other patches, but by default unconditional rows are patched too, as in NeMo.

    Raises:
        InterpError: there are no neurons.
    """
    held = tuple((layer, tuple(sorted(set(map(int, n))))) for layer, n in neurons.items() if len(n))
    if not held:
        raise InterpError(
            "silence() was given no neurons.",
            "Without neurons it would change nothing.",
            "Name some: {'mid.0': [9]}.",
        )
    where = Where(tuple(layer for layer, _ in held), steps, None, "v", uncond)
    return Patch((Silence(_names(category), where, held),))


def _names(category: Names) -> tuple[str, ...]:
    return selected(category)


def _prompts(
    given: Prompt | Sequence[Prompt] | xr.Dataset, name: str, most: int | None = None
) -> tuple[Prompt, ...]:
    """Prompts passed directly or as a dataset."""
    if isinstance(given, Prompt):
        return (given,)
    prompts = tuple(as_prompts(given) if isinstance(given, xr.Dataset) else given)
    if not prompts or len(prompts) > (most or len(prompts)):
        raise InterpError(
            f"{name}= was given {len(prompts)} prompts.",
            f"It takes {'one' if most == 1 else 'at least one'}.",
            "Select from a dataset with dataset.isel(prompt=[0]).",
        )
    return prompts
