"""The four categories of token positions, determined by position and never by id.

    sot | prompt ........... | eot | pad pad pad .................
    0   | 1 .. e-1           | e   | e+1 .. 76

SD 1 pads with the end-of-text token itself, SD 2 with `!`, which prompts may contain too, and a
prompt may spell out `<|endoftext|>`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import reduce
from jaxtyping import Integer
from torch import Tensor

from interp.errors import InterpError

CATEGORIES = ("sot", "prompt", "eot", "pad")
SOT, PROMPT, EOT, PAD = range(len(CATEGORIES))
SEGMENTS = ("clip", "t5")
POOLED = "pooled"
CLIP_EOS = 49407


def codes(categories: str | Sequence[str]) -> tuple[int, ...]:
    """The integer codes of one or several categories, sorted, without repetition.

    Example:
        >>> codes(("pad", "eot"))
        (2, 3)

    Raises:
        InterpError: a name is not a category, or there are none.
    """
    names = (categories,) if isinstance(categories, str) else tuple(categories)
    unknown = [name for name in names if name not in CATEGORIES]
    if unknown or not names:
        raise InterpError(
            f"The token categories {names!r} were asked for.",
            f"There are {', '.join(CATEGORIES)}; t5.pad and the like, for one encoder; and pooled.",
            "Name one of them, or several as a tuple.",
        )
    return tuple(sorted({CATEGORIES.index(name) for name in names}))


def selected(names: str | Sequence[str]) -> tuple[str, ...]:
    """The names of what an operation edits, in the toolkit's order, without repetition.

    Besides categories these are the categories of one encoder (`t5.pad`, `clip.pad`) and `pooled`,
    the vector that SD 3 and FLUX add to the timestep embedding.

    Example:
        >>> selected(("pooled", "t5.pad", "eot"))
        ('eot', 't5.pad', 'pooled')

    Raises:
        InterpError: a name is none of these, or there are none.
    """
    given = (names,) if isinstance(names, str) else tuple(names)
    of_segments = [f"{segment}.{name}" for segment in SEGMENTS for name in CATEGORIES]
    if all(name in (*CATEGORIES, *of_segments, POOLED) for name in given) and given:
        return tuple(name for name in (*CATEGORIES, *of_segments, POOLED) if name in given)
    codes(tuple(name for name in given if name not in (*of_segments, POOLED)))
    raise AssertionError("an unknown name was not refused")


def categories(
    ids: Integer[Tensor, "*batch position"], pad_id: int, eos_id: int = CLIP_EOS
) -> Integer[Tensor, "*batch position"]:
    """The category code of every position, from the ids alone.

    If the pad token is the end-of-text token, the prompt ends at the first of the trailing
    end-of-text ids; otherwise at the last one. Ids alone cannot tell a prompt that ends by spelling
    out `<|endoftext|>` from a shorter one: `encode`, which sees the text, can.

    Example:
        >>> categories(torch.tensor([49406, 320, 2368, 49407, 49407, 49407]), pad_id=49407)
        tensor([0, 1, 1, 2, 3, 3])

    Raises:
        InterpError: a row has no end-of-text token.
    """
    is_eos = ids == eos_id
    if not bool(reduce(is_eos, "... position -> ...", "any").all()):
        raise InterpError(
            "The categories of a row of token ids were asked for.",
            f"It has no end-of-text token (id {eos_id}), so the end of its prompt is unknown.",
            "Pass the ids that the pipeline's tokenizer makes, including special tokens.",
        )
    position = torch.arange(ids.shape[-1], device=ids.device)
    if pad_id == eos_id:
        end = reduce((position + 1) * ~is_eos, "... position -> ... 1", "max")
    else:
        end = reduce(position * is_eos, "... position -> ... 1", "max")
    return around(position, end)


def around(
    position: Integer[Tensor, " position"], end: Integer[Tensor, "*batch 1"]
) -> Integer[Tensor, "*batch position"]:
    """The category code of every position, given where each prompt ends.

    Example:
        >>> around(torch.arange(5), torch.tensor([2]))
        tensor([0, 1, 2, 3, 3])
    """
    # Every boundary passed adds one: past sot, at or past eot, past eot.
    return (position > 0).long() + (position >= end).long() + (position > end).long()
