"""From a name to a stock pipeline: the embedded model, a local folder, or a hub id.

Nothing is downloaded unless the name is a hub id, and pickled weights are never read. For a
pipeline that is already in memory, use `Session(pipe)`.
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
"""Former names of embedded models, which anybody could register on a hub."""


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
    """Load a text-to-image pipeline (see `Session`) and put it into a `Session`.

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

    The safety checker is left out: it blackens images, and a black image is similar to nothing.

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
            f"Cannot load the model {str(name)!r} from {folder}.",
            "There are no *.safetensors files in it.",
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
            f"Cannot load the model {str(name)!r} from {folder}.",
            f"The folder is incomplete or damaged: {str(cause).partition(chr(10))[0]}",
            "A download or copy was probably interrupted: get it again.",
        ) from cause
    if scheduler is not None:
        pipe.scheduler = _scheduler(scheduler).from_config(pipe.scheduler.config)
    if lora is not None:
        source["lora"] = str(lora)
        _put_on(pipe, Path(lora).expanduser())
    return Session(pipe.to(device), source=source, **settings)


def find(name: str | Path) -> Path | None:
    """Return the folder of a local or embedded model; None if the name can only be a hub id.

    Example:
        >>> find("embedded")
        PosixPath('.../data/organism/eot')

    Raises:
        InterpError: the name can only be local, and there is no such model.
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
        "Pass one of them, a folder in diffusers format, or a hub id 'owner/name'.",
    )


def _dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.float16
    known = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    asked = known.get(str(dtype).removeprefix("torch."))
    if asked is None or (asked is torch.float16 and device.type == "cpu"):
        raise InterpError(
            f"dtype={dtype} was asked for on {device}.",
            "float32 and bfloat16 work everywhere, float16 only on a GPU.",
            "Leave out dtype for the default: float32 on a CPU, float16 elsewhere.",
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
            "Check the name and the network, or pass a folder in diffusers format.",
        ) from cause


def _check_vocabulary(pipe: Any) -> None:
    """Raise for an empty tokenizer, which transformers makes up if its files are missing."""
    for tokenizer, encoder in encoders(pipe):
        config: Any = encoder.config
        # T5's encoder has room for a few more than there are.
        if len(tokenizer) < 0.9 * config.vocab_size:
            raise ValueError(
                f"its tokenizer has {len(tokenizer)} of the {config.vocab_size} tokens of its text "
                "encoder."
            )


def _has_safety_checker(folder: Path) -> bool:
    return "safety_checker" in (folder / INDEX).read_text()
