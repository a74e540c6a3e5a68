"""The mitigation that edits attention: Ren et al., ECCV 2024 (arXiv 2403.11052)."""

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
            key, so it is the key that is scaled, in any attention kernel. A negative logit is
            pushed further down, as in the authors' code.
        mask_pads: hide every position behind the end-of-text token, each row behind its own.
        uncond: also hide keys in the unconditional rows, whose first token is never scaled: with
            True those behind the end of the unconditional prompt, with "paired" those behind the
            end of the conditional prompt beside it, which is what the authors' code does.

    Source: Ren et al., section 5. What their code does differently: it takes every second row for
    a conditional one, which is true for one image only (MemBench runs it on ten), and it has SD 1's
    eight heads written into it. For one image, `uncond="paired"` is what it computes.
    """
    # A factor of 1 leaves its key as it is; leaving it out keeps the stock kernel's numbers.
    steps = [scale("sot", c1, side="k")] if c1 != 1 or not mask_pads else []
    if mask_pads:
        steps.append(mask("pad", uncond=bool(uncond), paired=uncond == "paired"))
    patch = steps[0]
    for step in steps[1:]:
        patch = patch & step
    return patch
