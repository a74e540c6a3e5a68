"""What contributes to memorization, how much, where, when, and through keys or values.

    phi = ip.attribute.shapley(sd, a, baseline=b, value=similarity(sscd, image), seeds=range(8))

Results are datasets. `causal_trace` is exact, `attribution_patching` its estimate.
"""

from interp.attribute.activations import activations
from interp.attribute.agreement import agreement
from interp.attribute.embeddings import significance, tokens
from interp.attribute.games import solve
from interp.attribute.neurons import find_neurons, likeness, silencing
from interp.attribute.patching import attribution_patching, together
from interp.attribute.shapley import shapley
from interp.attribute.silenced import SilenceNeurons
from interp.attribute.tracing import causal_trace
from interp.attribute.values import NoiseValue, Similarity, guidance, noise_value, similarity
from interp.results.intervals import bootstrap

__all__ = [
    "NoiseValue",
    "SilenceNeurons",
    "Similarity",
    "activations",
    "agreement",
    "attribution_patching",
    "bootstrap",
    "causal_trace",
    "find_neurons",
    "guidance",
    "likeness",
    "noise_value",
    "shapley",
    "significance",
    "silencing",
    "similarity",
    "solve",
    "together",
    "tokens",
]
