"""The verbs that act on what is predicted, not on what the denoiser is given."""

from __future__ import annotations

from interp.patch.guidance import Guide, Repel, Until
from interp.patch.patch import Patch
from interp.patch.where import Steps, Where
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt


def guide(weight: float, *, steps: Steps = None, until: Until = None) -> Patch:
    """Mix the conditional and the unconditional prediction by another weight of guidance.

    Example:
        >>> guide(0, steps=slice(0, 25))         # no guidance in the first half of 50 steps
        >>> guide(1, until="minimum")            # none before the norm's first minimum

    The prediction is `eps_u + weight * (eps_c - eps_u)` in the place of the pipeline's own mixture:
    0 follows the empty prompt, 1 the prompt alone, and a negative weight leads away from it.

    Args:
        weight: of guidance; the pipeline's `guidance_scale` holds in all other steps.
        steps: UNet calls of a run, counted from 0; all by default.
        until: "minimum" ends at the first step at which `||eps_c - eps_u||` is larger than one step
            before, having been smaller there than two steps before; for each image by itself.

    Of several guides the last one counts. Whatever is recorded or traced is what the denoiser
    predicted, not the mixture.

    Raises:
        InterpError: for other arguments; while it runs, if the pipeline runs without guidance.
    """
    return Patch((Guide(CATEGORIES, Where(steps=steps), weight, until),))


def repel(
    weight: float,
    donor: Prompt | None = None,
    *,
    steps: Steps = None,
    between: tuple[float, float] | None = None,
    fading: bool = False,
) -> Patch:
    """Lead away from another prompt's prediction, or from what the prompt says without patches.

    Example:
        >>> repel(2, fading=True) & zero("pad")          # away from the image that pads make
        >>> repel(6.5, original, between=(3, 5))         # away from another prompt

    `weight * (eps_donor - eps_u)` is taken off the mixture that guidance makes. The third
    prediction is one more UNet row for each image and step at which it has a weight.

    Args:
        weight: the largest weight.
        donor: whose prediction; by default the row's own prompt, past all patches.
        steps: UNet calls of a run, counted from 0; all by default.
        between: two norms of `eps_c - eps_u`, of an image's whole latent: the weight is 0 up to
            the first and grows linearly, to be the largest from the second on.
        fading: the weight falls as a quarter of a cosine, from the first step to the end.

    Raises:
        InterpError: for other arguments; while it runs, if the pipeline runs without guidance, or
            the donor's embeddings are another model's.
    """
    return Patch((Repel(CATEGORIES, Where(steps=steps), weight, donor, between, fading),))
