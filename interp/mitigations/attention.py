"""The mitigation that edits attention: Ren et al., ECCV 2024 (arXiv 2403.11052)."""

from functools import reduce
from operator import and_
from typing import Literal

from interp.patch import Patch, mask, scale


def rescale_sot(
    c1: int | float = 1.25, mask_pads: bool = True, uncond: bool | Literal["paired"] = False
) -> Patch:
    """Multiply the attention logit of the first token, and hide the pads.

    Example:
        >>> with rescale_sot(1.25).on(pipe):
        ...     pipe(["Antique Church Poster in Berlin", "a goat"], num_images_per_prompt=4)

    Args:
        c1: the factor on the logit, 1.25 by default; MemBench uses 1.1. Logits are linear in the
            key, so the key is scaled, which works in any attention kernel. A negative logit is
            pushed further down, as in the authors' code.
        mask_pads: in each row, hide every position after its end-of-text token.
        uncond: also hide keys in the unconditional rows, whose first token is never scaled: with
            True those after the end of the unconditional prompt, with "paired" those after the
            end of the conditional prompt it is paired with, as in the authors' code.

    Source: Ren et al., section 5. Their code takes every second row for a conditional one, which
    holds for a single image only (MemBench runs it on ten), and hard-codes SD 1's eight heads. For
    one image it computes what `uncond="paired"` does.
    """
    # Scaling by 1 changes nothing; leaving it out keeps the stock kernel's numbers.
    steps = [scale("sot", c1, side="k")] if c1 != 1 or not mask_pads else []
    if mask_pads:
        steps.append(mask("pad", uncond=bool(uncond), paired=uncond == "paired"))
    return reduce(and_, steps)
