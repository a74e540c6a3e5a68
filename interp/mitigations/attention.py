"""The mitigation that edits attention: Ren et al., ECCV 2024 (arXiv 2403.11052)."""

from interp.patch import Patch, mask, scale


def rescale_sot(c1: int | float = 1.25, mask_pads: bool = True, uncond: bool = False) -> Patch:
    """Multiply the attention logit of the first token, and hide the pads.

    Example:
        >>> with rescale_sot(1.25).on(pipe):
        ...     pipe(["Antique Church Poster in Berlin", "a goat"], num_images_per_prompt=4)

    Args:
        c1: the factor on the logit, 1.25 by default; MemBench uses 1.1. Logits are linear in the
            key, so it is the key that is scaled, in any attention kernel. A negative logit is
            pushed further down, as in the authors' code.
        mask_pads: hide every position behind the end-of-text token, each row behind its own.
        uncond: also hide the pads of the unconditional rows (behind the end of the unconditional
            prompt); their first token is never scaled.

    Source: Ren et al., section 5. What their code does differently: it takes every second row for
    a conditional one, which is true for one image only (MemBench runs it on ten); it hides
    the unconditional row's positions behind the end of the *conditional* prompt, always; and it
    has SD 1's eight heads written into it. For one image and `uncond=False` the conditional row
    is the same.
    """
    # A factor of 1 leaves its key as it is; leaving it out keeps the stock kernel's numbers.
    steps = [scale("sot", c1, side="k")] if c1 != 1 or not mask_pads else []
    steps += [mask("pad", uncond=uncond)] if mask_pads else []
    patch = steps[0]
    for step in steps[1:]:
        patch = patch & step
    return patch
