"""Why does Stable Diffusion regurgitate this image? Record, patch and measure its text embeddings.

import interp as ip
with ip.zero("pad", fraction=0.7).on(pipe):
    pipe("Antique Church Poster in Berlin").images[0]
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp import attribute, audit, benchmark, detect, metrics, mitigations, paper, patch, plot
    from interp.denoiser.layers import Site, select, sites
    from interp.errors import InterpError
    from interp.explore import explore
    from interp.patch import (
        Applied,
        Patch,
        Where,
        apply,
        attenuate,
        copy,
        guide,
        installed,
        mask,
        mean,
        noise,
        remove,
        repad,
        repel,
        scale,
        silence,
        swap,
        zero,
    )
    from interp.record import Log, Recorder, entropy, maps, mass, record, token_mass
    from interp.results import open, provenance, save
    from interp.session import Rewrite, Session, Start
    from interp.session.load import load
    from interp.sweep import sweep
    from interp.text.categories import CATEGORIES, categories
    from interp.text.donors import as_dataset, as_prompts
    from interp.text.encoding import encode
    from interp.text.files import read_prompts
    from interp.text.prompt import Prompt
    from interp.text.windows import join

# Where each public name lives. They are fetched when they are first used: `import interp` is cheap.
_HOMES = {
    "interp": "attribute audit benchmark detect metrics mitigations paper patch plot",
    "interp.denoiser.layers": "Site select sites",
    "interp.errors": "InterpError",
    "interp.explore": "explore",
    "interp.patch": "Applied Patch Where apply attenuate copy guide installed mask mean noise "
    "remove repad repel scale silence swap zero",
    "interp.record": "Log Recorder entropy maps mass record token_mass",
    "interp.results": "open provenance save",
    "interp.session": "Rewrite Session Start",
    "interp.session.load": "load",
    "interp.sweep": "sweep",
    "interp.text.categories": "CATEGORIES categories",
    "interp.text.donors": "as_dataset as_prompts",
    "interp.text.encoding": "encode",
    "interp.text.windows": "join",
    "interp.text.files": "read_prompts",
    "interp.text.prompt": "Prompt",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}

__all__ = [
    "CATEGORIES", "Applied", "InterpError", "Log", "Patch", "Prompt", "Recorder", "Rewrite",
    "Session", "Site", "Start", "Where", "apply", "as_dataset", "as_prompts", "attenuate",
    "attribute", "audit", "benchmark", "categories", "copy", "detect", "encode", "entropy",
    "explore", "guide", "installed", "join", "load", "maps", "mask", "mass", "mean", "metrics",
    "mitigations", "noise", "open", "paper", "patch", "plot", "provenance", "read_prompts",
    "record", "remove", "repad", "repel", "save", "scale", "select", "silence", "sites",
    "swap", "sweep", "token_mass", "zero",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    home = _HOME[name]
    if home == "interp":
        return import_module(f"interp.{name}")
    globals()[name] = found = getattr(import_module(home), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Importing a folder binds its name; `ip.record` and `ip.sweep` stay the functions."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and _HOME.get(name, "interp") != "interp"):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
