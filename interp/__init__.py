"""Why does Stable Diffusion regurgitate this image? Record, patch and measure its text embeddings.

import interp as ip
with ip.zero("pad", fraction=0.7).on(pipe):
    pipe("Antique Church Poster in Berlin").images[0]
"""

from interp import attribute, detect, metrics, mitigations, paper, plot
from interp.attach import Attached, attach
from interp.composition import Patch
from interp.donors import as_dataset, as_prompts
from interp.encoding import encode
from interp.errors import InterpError
from interp.models import load
from interp.patch import copy, mask, mean, noise, repad, scale, silence, swap, zero
from interp.prompts import read_prompts
from interp.record import Log, record
from interp.recorders import Recorder, entropy, maps, mass, token_mass
from interp.results import open, provenance, save
from interp.session import Rewrite, Session
from interp.sites import Site, select, sites
from interp.sweep import sweep
from interp.tokens import CATEGORIES, Prompt, categories
from interp.where import Where

__all__ = [
    "CATEGORIES",
    "Attached",
    "InterpError",
    "Log",
    "Patch",
    "Prompt",
    "Recorder",
    "Rewrite",
    "Session",
    "Site",
    "Where",
    "as_dataset",
    "as_prompts",
    "attach",
    "attribute",
    "categories",
    "copy",
    "detect",
    "encode",
    "entropy",
    "load",
    "maps",
    "mask",
    "mass",
    "mean",
    "metrics",
    "mitigations",
    "noise",
    "open",
    "paper",
    "plot",
    "provenance",
    "read_prompts",
    "record",
    "repad",
    "save",
    "scale",
    "select",
    "silence",
    "sites",
    "swap",
    "sweep",
    "token_mass",
    "zero",
]
