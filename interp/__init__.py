"""Why does Stable Diffusion regurgitate this image? Record, patch and measure its text embeddings.

import interp as ip
with ip.zero("pad", fraction=0.7).on(pipe):
    pipe("Antique Church Poster in Berlin").images[0]
"""

from interp import attribute, detect, metrics, mitigations, paper, plot
from interp.denoiser.layers import Site, select, sites
from interp.errors import InterpError
from interp.patch import Patch, Where, copy, mask, mean, noise, repad, scale, silence, swap, zero
from interp.patch.on_pipeline import Attached, attach
from interp.record import Log, record
from interp.record.recorders import Recorder, entropy, maps, mass, token_mass
from interp.results.provenance import provenance
from interp.results.store import open, save
from interp.session import Rewrite, Session
from interp.session.load import load
from interp.sweep import sweep
from interp.text.categories import CATEGORIES, categories
from interp.text.donors import as_dataset, as_prompts
from interp.text.encoding import encode
from interp.text.files import read_prompts
from interp.text.prompt import Prompt

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
