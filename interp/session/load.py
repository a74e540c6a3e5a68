"""From a name to a stock pipeline: the embedded model, a local folder, or a hub id.

Nothing is fetched unless the name is a hub id, and pickled weights are never read. A pipeline that
is in memory already needs none of this: `Session(pipe)`.
"""

import re
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError

from interp.errors import InterpError
from interp.session.embedded import INDEX, NAME, embedded, embedded_folder, is_embedded
from interp.session.quiet import DiffusionPipeline, quiet
from interp.session.session import Session
from interp.text.encoding import encoders

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
LORA = "lora"
"""The name of a LoRA in a pipeline that it was loaded with."""
FORMER = ("organism/eot", "organism/bang")
"""What embedded models were called: names that anybody may have on a hub."""


def load(
    name: str | Path = NAME,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    *,
    local_files_only: bool = False,
    revision: str | None = None,
    scheduler: str | None = None,
    lora: str | Path | None = None,
    **settings: Any,
) -> Session:
    """Load a Stable Diffusion 1.x, 2.x or SDXL pipeline and put it into a `Session`.

    Example:
        >>> load()                                                      # the embedded model
        >>> load("models/sd-v1-4", device="cuda", dtype="float16")      # a diffusers folder
        >>> load("CompVis/stable-diffusion-v1-4", steps=50, guidance=7.5)

    Args:
        name: "embedded", the model that comes with interp, or "embedded:bang", its twin, which are
            never looked up on a network; or a folder in diffusers format ("./embedded" is one); or
            a hub id, which is downloaded unless it is in the cache.
        dtype: float32 on a CPU and float16 elsewhere by default. With torch 2.13 a seed gives the
            same noise in every precision, with 2.11 it does not, and their images are no pairs.
        device: a GPU if there is one by default.
        local_files_only: for a hub id, use the cache alone.
        revision: for a hub id, the commit to take.
        scheduler: a class of diffusers, such as "DDIM", made from the configuration of the model's
            own; its own by default.
        lora: a LoRA to put on it, `*.safetensors`; in the pipeline its name is "lora".
        settings: settings of the session (`steps=`, `guidance=`, ...).

    The safety checker is left out: it blackens images, and a blackened image has no similarity.

    Raises:
        InterpError: nothing of that name exists, its folder is incomplete, float16 is asked for on
            a CPU, the scheduler is unknown, or the LoRA is none.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = _dtype(dtype, device)
    folder = find(name)
    source = {"id": str(name)}
    if folder is None:
        folder = _download(str(name), local_files_only, revision)
        source["revision"] = revision or folder.name
    if not any(folder.rglob("*.safetensors")):
        raise InterpError(
            f"The model {str(name)!r} was to be loaded from {folder}.",
            "There is no *.safetensors file below it.",
            "Save the model with safe_serialization=True; pickled weights are never read.",
        )
    checker = {"safety_checker": None} if _has_safety_checker(folder) else {}
    try:
        with quiet():
            pipe = DiffusionPipeline.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True, **checker
            )
        _check_vocabulary(pipe)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as cause:
        raise InterpError(
            f"The model {str(name)!r} was to be loaded from {folder}.",
            f"The folder is incomplete or damaged: {str(cause).partition(chr(10))[0]}",
            "It was probably cut off while being downloaded or copied: get it again.",
        ) from cause
    if scheduler is not None:
        pipe.scheduler = _scheduler(scheduler).from_config(pipe.scheduler.config)
    if lora is not None:
        source["lora"] = str(lora)
        _put_on(pipe, Path(lora).expanduser())
    return Session(pipe.to(device), source=source, **settings)


def find(name: str | Path) -> Path | None:
    """Return the folder of a local or embedded model, or None where only a hub can have it.

    Example:
        >>> find("embedded")
        PosixPath('.../data/organism/eot')

    Raises:
        InterpError: the name can only be local and is not there.
    """
    if is_embedded(name):
        return embedded_folder(str(name))
    folder = Path(name).expanduser()
    if (folder / INDEX).is_file():
        return folder
    if not folder.exists() and HUB_ID.fullmatch(str(name)) and str(name) not in FORMER:
        return None
    raise InterpError(
        f"The model {str(name)!r} was asked for.",
        (f"The folder {str(folder)!r} has no {INDEX}. " if folder.exists() else "")
        + f"Embedded models: {', '.join(embedded()) or 'none found'}.",
        "Give one of them, a folder in diffusers format, or a hub id 'owner/name'.",
    )


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.float16
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    asked = known.get(str(dtype).removeprefix("torch."))
    if asked is None or (asked is torch.float16 and device.type == "cpu"):
        raise InterpError(
            f"dtype={dtype} was asked for on {device}.",
            "There are float32 and bfloat16 everywhere, and float16 on a GPU.",
            "Leave dtype out: float32 on a CPU, float16 elsewhere.",
        )
    return asked


def _scheduler(name: str) -> Any:
    found = getattr(diffusers, name.removesuffix("Scheduler") + "Scheduler", None)
    if found is None:
        known = [n.removesuffix("Scheduler") for n in dir(diffusers) if n.endswith("Scheduler")]
        raise InterpError(
            f"scheduler={name!r} was asked for.",
            f"diffusers {diffusers.__version__} has {', '.join(known)}.",
            "Choose one of them, or leave it out for the model's own.",
        )
    return found


def _put_on(pipe: Any, lora: Path) -> None:
    if lora.suffix != ".safetensors" or not lora.is_file():
        raise InterpError(
            f"The LoRA {str(lora)!r} was to be loaded.",
            "It is not there." if not lora.is_file() else "It is no *.safetensors file.",
            "Save it as safetensors: pickled weights are never read.",
        )
    pipe.load_lora_weights(lora.parent, weight_name=lora.name, adapter_name=LORA)


def _download(name: str, local_files_only: bool, revision: str | None) -> Path:
    try:
        return Path(
            DiffusionPipeline.download(
                name, use_safetensors=True, local_files_only=local_files_only, revision=revision
            )
        )
    except (OSError, ValueError) as cause:
        where = "in the local cache" if local_files_only else "on the hub or in its cache"
        raise InterpError(
            f"The model {name!r} was asked for{f' at {revision}' if revision else ''}.",
            f"It is not {where}: {str(cause).splitlines()[0]} "
            f"Embedded models: {', '.join(embedded()) or 'none found'}.",
            "Check the name and the network, or give a folder in diffusers format.",
        ) from cause


def _check_vocabulary(pipe: Any) -> None:
    """Where its files are missing, transformers makes up a tokenizer that knows no words."""
    for tokenizer, encoder in encoders(pipe):
        config: Any = encoder.config
        if len(tokenizer) < config.vocab_size:
            raise ValueError(
                f"its tokenizer has {len(tokenizer)} of the {config.vocab_size} tokens of its text "
                "encoder."
            )


def _has_safety_checker(folder: Path) -> bool:
    return "safety_checker" in (folder / INDEX).read_text()
