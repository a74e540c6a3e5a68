"""The verbs that make patches: verb, then what, then where.

    swap("pad", donor=b, layers="up", steps=slice(0, 10), side="k")

Each takes one category or several, and where it makes sense `layers`, `steps`, `heads`, `side` and
`uncond` (see `Where`). Without them it edits the embeddings of the conditional rows, everywhere.
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

    With `fraction`, only the first `int(n * fraction)` of a category's n positions: for pads those
    nearest to the end of the prompt.
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
    """Put the prompt's own `source` embedding, or the mean of several, at every position of `to`.

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
    """Put another prompt's embeddings of the same category there.

    Example:
        >>> swap("pad", donor=b, layers="up", steps=slice(0, 10))

    `align` says which of the donor's embeddings a position gets: with "position" the one at the
    same position; with "offset" the one as many places after the category's first; with "nearest"
    the one at the same position or, where that is of another category, the nearest to it; with
    "mean" their mean. The one sot and the one eot are exchanged wherever they stand.

    The donor may be a prompt, one with other embeddings (`dataclasses.replace(b, embeds=...)`), or
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
    """Put the category's mean embedding over prompts there: one vector, each prompt counting once.

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
    """Add Gaussian noise of this standard deviation, the same at every step, layer and row.

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

    A negative logit is pushed down by a factor above 1, as in Ren et al. (ECCV 2024). With
    `side="v"` what is read is scaled, with "kv" both are.
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
    """Take keys out of the softmax, so that the others share their attention.

    Example:
        >>> mask(("eot", "pad"), steps=slice(0, 10))

    With `paired`, an unconditional row loses the keys where the conditional prompt beside it has
    those categories, not where its own prompt has them.
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
    """Encode the prompt again with another pad token, and put those pads there.

    Example:
        >>> repad("!") & zero("eot")        # the first mitigation of Kim & No

    Unconditional rows too, because that is what the authors' code does (it leaves the tokenizer
    with the new pad token); `uncond=False` leaves them. CLIP being causal, only pads change.
    """
    return Patch((Repad(("pad",), Where(layers, steps, heads, side, uncond), token),))


def silence(
    neurons: Mapping[str, Sequence[int]],
    category: Names = CATEGORIES,
    *,
    steps: Steps = None,
    uncond: Uncond = True,
) -> Patch:
    """Put single neurons of value projections to zero.

    Example:
        >>> silence({"down.1.0": [17, 402], "mid.0": [9]})

    Args:
        neurons: by layer, the outputs of its `to_v`, counted from 0.
        category: at the positions of which categories; all by default.
        steps: UNet calls of a run, counted from 0; all by default.
        uncond: as for other patches, but unconditional rows are patched too unless `False` is
            said: that is what NeMo does.

    Raises:
        InterpError: for no neurons.
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
    """Prompts given as such or as a dataset."""
    if isinstance(given, Prompt):
        return (given,)
    prompts = tuple(as_prompts(given) if isinstance(given, xr.Dataset) else given)
    if not prompts or len(prompts) > (most or len(prompts)):
        raise InterpError(
            f"{name}= was given {len(prompts)} prompts.",
            f"It takes {'one' if most == 1 else 'at least one'}.",
            "Choose: dataset.isel(prompt=[0]).",
        )
    return prompts
