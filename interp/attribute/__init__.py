"""What contributes to memorization, how much, where, when, and through keys or values.

phi = ip.attribute.shapley(sd, a, baseline=b, value=similarity(sscd, image), seeds=range(8))
"""

from interp.attribute.agreement import agreement
from interp.attribute.embeddings import significance, tokens
from interp.attribute.games import solve
from interp.attribute.intervals import bootstrap
from interp.attribute.patching import attribution_patching
from interp.attribute.shapley import shapley
from interp.attribute.tracing import causal_trace
from interp.attribute.values import NoiseValue, Similarity, guidance, noise_value, similarity

__all__ = [
    "NoiseValue",
    "Similarity",
    "agreement",
    "attribution_patching",
    "bootstrap",
    "causal_trace",
    "guidance",
    "noise_value",
    "shapley",
    "significance",
    "similarity",
    "solve",
    "tokens",
]
