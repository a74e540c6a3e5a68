"""Which files is a model made of? SHA-256 of files and folders of weights.

For models that are used as they are on disk. A pipeline can be changed in memory, and has an
`identity`. Not for verifying downloads: hubs publish their own hashes.
"""

import hashlib
from pathlib import Path

import torch

from interp.errors import InterpError


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, read piece by piece."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(folder: str | Path) -> str:
    """Return one SHA-256 over all `*.safetensors` below a folder: names and contents.

    Example:
        >>> folder_sha256("data/organism/eot")[:12]
        '3f786850e387'

    Raises:
        InterpError: the folder has no such files.
    """
    folder = Path(folder)
    digest, files = hashlib.sha256(), sorted(folder.rglob("*.safetensors"))
    if not files:
        raise InterpError(
            asked=f"Cannot hash the weights in {str(folder)!r}.",
            exists="There are no *.safetensors files in it.",
            todo="Save the model with safe_serialization=True; pickled weights are never read.",
        )
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()


def tensor_sha256(values: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's shape, type and numbers.

    Example:
        >>> tensor_sha256(torch.zeros(2))[:12]
        'ba484c4a4205'
    """
    raw = values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return hashlib.sha256(
        f"{tuple(values.shape)}{values.dtype}".encode() + raw.tobytes()
    ).hexdigest()
