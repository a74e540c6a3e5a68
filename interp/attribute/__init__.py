"""What contributes to memorization, how much, where, when, and through keys or values.

phi = ip.attribute.shapley(sd, a, baseline=b, value=similarity(sscd, image), seeds=range(8))
"""

from interp.attribute.games import solve
from interp.attribute.intervals import bootstrap
from interp.attribute.shapley import shapley
from interp.attribute.tracing import causal_trace
from interp.attribute.values import NoiseValue, Similarity, guidance, noise_value, similarity

__all__ = [
    "NoiseValue",
    "Similarity",
    "bootstrap",
    "causal_trace",
    "guidance",
    "noise_value",
    "shapley",
    "similarity",
    "solve",
]
