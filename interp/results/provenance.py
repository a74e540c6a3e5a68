"""What is needed to reproduce a dataset: one JSON string among its attributes.

A string, because netCDF attributes can be neither None nor dictionaries.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import xarray as xr

from interp.results.identity import identity

PROVENANCE = "provenance"
PACKAGES = ("torch", "diffusers", "transformers", "xarray")


def stamp(data: xr.Dataset, **facts: Any) -> xr.Dataset:
    """A copy of the dataset with these facts added to its provenance.

    Example:
        >>> stamp(run, seeds=[0, 1], guidance=7.5)

    Facts should be JSON values; anything else is written as its `repr`, so nothing is lost.
    """
    merged = {**provenance(data), **facts}
    return data.assign_attrs({PROVENANCE: json.dumps(merged, sort_keys=True, default=repr)})


def provenance(data: xr.Dataset) -> dict[str, Any]:
    """What is needed to reproduce the dataset, as a dictionary (empty if it has no provenance).

    Example:
        >>> provenance(run)["packages"]["diffusers"]
    """
    return json.loads(data.attrs.get(PROVENANCE, "{}"))


def describe(pipe: Any) -> dict[str, Any]:
    """A description of a pipeline: model, scheduler, steps, guidance, dtype, device, packages.

    Example:
        >>> describe(pipe)["scheduler"]["class"]
        'DDIMScheduler'
    """
    scheduler = pipe.scheduler
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    name = pipe.config.get("_name_or_path") or denoiser.config.get("_name_or_path", "")
    config = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    return {
        "pipeline": type(pipe).__name__,
        "model": {"id": str(name), **identity(pipe)},
        "scheduler": {"class": type(scheduler).__name__, **config},
        "steps": getattr(scheduler, "num_inference_steps", None),
        "guidance": getattr(pipe, "_guidance_scale", None),
        "dtype": str(denoiser.dtype).removeprefix("torch."),
        "device": str(denoiser.device),
        "packages": packages(),
    }


def packages() -> dict[str, str]:
    """Versions of Python and of the packages that affect the numbers.

    Example:
        >>> packages()     # {'python': '3.11.9', 'torch': '2.13.0', ...}
    """
    return {"python": platform.python_version(), **_versions()}


@cache
def _versions() -> Mapping[str, str]:
    # Read only once: it takes 30 ms, as long as a step of a small UNet.
    found = {}
    for name in ("interp", *PACKAGES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that was never installed
            continue
    return found
