"""Mitigations that edit the 77 embeddings: no gradient, no extra forward pass.

Kim & No, "Memorization In Stable Diffusion Is Unexpectedly Driven by CLIP Embeddings", CVPR 2026
Findings (arXiv 2605.02908), and the noise of Somepalli et al., NeurIPS 2023.
"""

import numpy as np

from interp.patch import Patch, noise, zero
from interp.patch import repad as _repad
from interp.text.categories import CATEGORIES


def repad_zero_eot(token: str = "!", uncond: bool = True) -> Patch:
    """Pad with `!` instead of the end-of-text token, and zero the end-of-text embedding.

    Example:
        >>> with repad_zero_eot().on(pipe):
        ...     pipe("Antique Church Poster in Berlin").images[0]

    Args:
        token: SD 2's pad token by default; if the tokenizer already pads with it, only the zeroing
            has an effect.
        uncond: also pad the unconditional prompt with it; its end-of-text embedding is kept.

    Source: Kim & No, their first mitigation. Their code sets the pad token on the tokenizer and
    leaves it there, so that the pipeline pads the negative prompt with it too: `uncond=True`.
    """
    return repad(token, uncond) & zero("eot")


def repad(token: str = "!", uncond: bool = True) -> Patch:
    """Pad with `!` instead of the end-of-text token.

    Example:
        >>> handle = repad().install(pipe)

    Arguments and source as in `repad_zero_eot`.
    """
    return _repad(token, uncond=uncond)


def zero_pads(fraction: int | float = 0.7) -> Patch:
    """Zero the pads nearest to the end of the prompt: `int(pads * fraction)` of them.

    Example:
        >>> with zero_pads(0.7).on(pipe):
        ...     pipe("Antique Church Poster in Berlin").images[0]

    Source: Kim & No, their second mitigation (0.7 in the paper, 0.4 as a milder one). Conditional
    rows only, as in their code.
    """
    return zero("pad", fraction=fraction)


def embedding_noise(std: int | float = 0.1, seed: int = 0, uncond: bool = False) -> Patch:
    """Add Gaussian noise to all embeddings (GNI).

    Example:
        >>> sd.images(prompt, seeds=range(4), patch=embedding_noise(0.1))

    Args:
        std: 0.1 in the authors' code.
        seed: of the noise, which is the same for every prompt and generation seed.
        uncond: also add noise to the unconditional rows, drawn independently, as in the authors'
            code: the same noise in both would partly cancel in the guidance.

    Source: Somepalli et al. 2023. Their code overrides `_encode_prompt`, which current diffusers
    no longer calls, so there it silently does nothing.
    """
    conditional = noise(CATEGORIES, std=std, seed=seed)
    if not uncond:
        return conditional
    # Derived from the seed: seed + 1 would repeat the next seed's conditional noise.
    (other,) = np.random.SeedSequence([seed, 1]).generate_state(1).tolist()
    return conditional & noise(CATEGORIES, std=std, seed=other, uncond="only")
