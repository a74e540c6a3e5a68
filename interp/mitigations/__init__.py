"""The field's mitigations, each with its citation and the authors' defaults.

Edits of embeddings and attention are `Patch`es: `patch.on(pipe)`, `patch.install(pipe)`. Those that
rewrite the prompt or change the noise need a session: `sd.run(..., patch=...)`.
"""

from interp.mitigations.attention import rescale_sot
from interp.mitigations.embeddings import embedding_noise, repad, repad_zero_eot, zero_pads
from interp.mitigations.guidance import dynamic_transition, opposite_guidance, static_transition
from interp.mitigations.noise import (
    AdjustNoise,
    OptimiseNoise,
    SharpnessAwareNoise,
    adjust_noise,
    optimise_noise,
    sharpness_aware_noise,
)
from interp.mitigations.optimise import OptimiseEmbedding, optimise_embedding
from interp.mitigations.stable import StableSteps, stable_steps, usual_steps
from interp.mitigations.third import Reanchor, attenuate_and_repel, reanchor
from interp.mitigations.words import RandomWords, random_numbers, random_tokens

__all__ = [
    "AdjustNoise",
    "OptimiseEmbedding",
    "OptimiseNoise",
    "RandomWords",
    "Reanchor",
    "SharpnessAwareNoise",
    "StableSteps",
    "adjust_noise",
    "attenuate_and_repel",
    "dynamic_transition",
    "embedding_noise",
    "opposite_guidance",
    "optimise_embedding",
    "optimise_noise",
    "random_numbers",
    "random_tokens",
    "reanchor",
    "repad",
    "repad_zero_eot",
    "rescale_sot",
    "sharpness_aware_noise",
    "stable_steps",
    "static_transition",
    "usual_steps",
    "zero_pads",
]
