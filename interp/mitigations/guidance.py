"""Mitigations that change guidance alone, before a transition point (Jain et al., CVPR 2025).

Early steps decide whether a trajectory falls into the basin of a memorized image; they are run with
little guidance, and the rest as usual. This costs nothing and leaves the embeddings alone, but what
early guidance decides - composition, often the subject - is lost for ordinary prompts too.
"""

from interp.patch import Patch, guide


def static_transition(steps: int = 25, weight: float = 0.0) -> Patch:
    """Guide by another weight in the first steps, then as usual (STP).

    Example:
        >>> sd.run(prompts, seeds=10, patch=static_transition(25))     # half of 50 steps

    Args:
        steps: how many, fewer than the run has: where all are without guidance, the prompt is
            ignored. The authors switch at timestep 500 of 1,000, halfway through a run. Han et
            al. (NeurIPS 2025), after adjusting the initial noise, run five without guidance.
        weight: 0 follows the empty prompt.

    Source: Jain et al., "Classifier-Free Guidance inside the Attraction Basin May Cause
    Memorization" (arXiv 2411.16738). Their script resets the scheduler to 200 steps at the
    transition, so that more steps follow; here the steps stay as they are.
    """
    return guide(weight, steps=slice(0, steps))


def dynamic_transition(weight: float = 1.0) -> Patch:
    """Guide by another weight until `||eps_c - eps_u||` has passed its first local minimum (DTP).

    Example:
        >>> sd.run(prompts, seeds=10, patch=dynamic_transition())

    Args:
        weight: before the transition; the authors' code uses 1, the conditional prediction alone,
            their text 0.

    A run whose norm has no local minimum keeps this weight to the end.

    Source: as `static_transition`.
    """
    return guide(weight, until="minimum")


def opposite_guidance(steps: int = 17, weight: float = -2.0) -> Patch:
    """Guide away from the prompt in the first steps, then towards it (OG).

    Example:
        >>> sd.run(prompts, seeds=10, patch=opposite_guidance())

    Args:
        steps: how many; the authors switch at timestep 650 of 1,000, which is after 17 of 50 steps.
        weight: negative.

    Source: as `static_transition`. Their script flips the weight's sign at each step and stops at
    the transition; this is what the paper describes.
    """
    return guide(weight, steps=slice(0, steps))
