"""How much the prediction still changes at the prompt, coming from the empty one.

For memorized prompts of SD, guidance rises sharply just before the prompt is reached. Where the
whole way there matters, plot `eps_c(empty + a (prompt - empty))` over `a` instead.
"""

import torch
import xarray as xr
from einops import rearrange

from interp.denoiser.derivatives import jvp
from interp.detect.around import each, lengths, of_embeds
from interp.detect.case import Case


def condition_jacobian(case: Case, difference: int | float | None = None) -> xr.DataArray:
    """Return `||J(c) (c - empty)||_2` at the first step, the derivative in the embedding, `(seed)`.

    Example:
        >>> condition_jacobian(Case(sd, "a photo of a goat", seeds=4)).mean("seed")

    `c` are the prompt's embeddings at all positions and `empty` those of the unconditional rows.
    SDXL's pooled embedding is the prompt's throughout.

    Cost: three UNet rows a seed, two of them shared with all that look at the first step, and a
    derivative of one.

    Args:
        difference: None, or the length of a central finite difference in the embedding; see
            `derivatives.jvp`.

    Source: "condition Jacobian" as a line integral, workshop paper of 2026
    (openreview.net/forum?id=pY2P28M9Iv), which has no code. The score is the integrand at its end.
    At which step they take it is not clear from what we have read; here it is the first.
    """
    session = case.session
    c, empty = case.prompt.embeds, session.unconditional.embeds
    at, along = (rearrange(part, "p d -> 1 p d") for part in (c, c - empty))
    found = [
        lengths(jvp(of_embeds(session, point), at, along, difference)) for point in each(case.start)
    ]
    return case.by_seed("condition_jacobian", torch.cat(found))
