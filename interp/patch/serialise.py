"""Patches as JSON, for provenance and for sweeps.

A donor's embeddings take 0.2 MB or more, so the JSON holds its text, ids and hash; on reading, the
embeddings are looked up or encoded again, and must match the hash. `embeds=True` includes them, and
the JSON is then self-contained.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.denoiser.layers import Span
from interp.errors import InterpError
from interp.patch.base import Operation
from interp.patch.operations import OPERATIONS
from interp.patch.where import FOREVER, HeadsByLayer, Where
from interp.text.categories import PAD
from interp.text.encoding import embed
from interp.text.prompt import Prompt
from interp.text.segments import apart
from interp.text.segments import embed as embed_segments


def dump(operations: Sequence[Operation], embeds: bool = False) -> str:
    """Operations as JSON.

    Example:
        >>> dump(zero("pad", fraction=0.7).operations)
        '[{"categories": ["pad"], "fraction": 0.7, "operation": "zero", "where": {}}]'
    """
    written = [
        {"operation": type(operation).__name__.lower(), **_fields(operation, embeds)}
        for operation in operations
    ]
    return json.dumps(written, sort_keys=True)


def load(text: str, pipe: Any = None, donors: Sequence[Prompt] = ()) -> tuple[Operation, ...]:
    """Operations from JSON.

    Example:
        >>> load(dump(patch.operations), pipe) == patch.operations
        True

    Raises:
        InterpError: the text is not a patch, or a donor can not be recovered.
    """
    try:
        return tuple(_operation(entry, pipe, donors) for entry in json.loads(text))
    except InterpError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InterpError(
            f"Cannot read a patch from {text[:80]!r}.",
            f"It is not the JSON of a patch ({error!r}).",
            f"Operations are {', '.join(OPERATIONS)}; write patches with patch.to_json().",
        ) from error


def _fields(operation: Operation, embeds: bool) -> dict[str, Any]:
    return {
        field.name: _plain(getattr(operation, field.name), embeds) for field in fields(operation)
    }


def _plain(value: Any, embeds: bool) -> Any:
    if isinstance(value, Prompt):
        return _donor(value, embeds)
    if isinstance(value, Where):
        # Defaults are left out to keep provenance readable.
        return {
            field.name: _plain(getattr(value, field.name), embeds)
            for field in fields(value)
            if getattr(value, field.name) != field.default
        }
    if isinstance(value, range):
        stop = None if value.stop == FOREVER else value.stop
        return {"range": [value.start, stop, value.step]}
    if isinstance(value, Span):
        return {"span": [value.start, value.stop, value.step]}
    if isinstance(value, HeadsByLayer):
        return {"heads": [[layer, list(heads)] for layer, heads in value.items]}
    if isinstance(value, tuple):
        return [_plain(part, embeds) for part in value]
    return value


def _donor(prompt: Prompt, embeds: bool) -> dict[str, Any]:
    described = {
        "text": prompt.text,
        "ids": prompt.ids.tolist(),
        "ids_2": None if prompt.ids_2 is None else prompt.ids_2.tolist(),
        "category": prompt.category.tolist(),
        "words": list(prompt.words),
        "pad_ids": list(prompt.pad_ids),
        "dtype": str(prompt.embeds.dtype).removeprefix("torch."),
        "shape": list(prompt.embeds.shape),
        "sha256": prompt.digest,
    }
    if prompt.segments:
        described["segments"] = [list(segment) for segment in prompt.segments]
    if embeds:
        raw = prompt.embeds.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
        described["embeds"] = base64.b64encode(raw).decode()
    return described


def _operation(entry: dict[str, Any], pipe: Any, donors: Sequence[Prompt]) -> Operation:
    kind = OPERATIONS[entry["operation"]]
    return kind(
        **{
            field.name: _value(entry[field.name], pipe, donors, field.name)
            for field in fields(kind)
        }
    )


def _value(value: Any, pipe: Any, donors: Sequence[Prompt], name: str) -> Any:
    if name == "where":
        return Where(**{key: _value(part, pipe, donors, key) for key, part in value.items()})
    if isinstance(value, dict) and "sha256" in value:
        return _found(value, pipe, donors)
    if isinstance(value, dict) and "range" in value:
        start, stop, step = value["range"]
        return range(start, FOREVER if stop is None else stop, step)
    if isinstance(value, dict) and "span" in value:
        return Span(*value["span"])
    if isinstance(value, dict):
        return HeadsByLayer(tuple((layer, tuple(heads)) for layer, heads in value["heads"]))
    if isinstance(value, list):
        return tuple(_value(part, pipe, donors, name) for part in value)
    return value


def _found(described: dict[str, Any], pipe: Any, donors: Sequence[Prompt]) -> Prompt:
    for donor in donors:
        if donor.digest == described["sha256"]:
            return donor
    second = described["ids_2"]
    ids = [torch.tensor(row) for row in (described["ids"], second) if row is not None]
    category = torch.tensor(described["category"])
    segments = tuple((name, length) for name, length in described.get("segments", ()))
    if "embeds" in described:
        embeds, pooled = _decoded(described), None
    elif pipe is not None and segments:
        embeds, pooled = embed_segments(pipe, apart(pipe, ids, segments))
    elif pipe is not None:
        embeds, pooled = embed(pipe, ids, (category < PAD).long())
    else:
        raise InterpError(
            f"Cannot read a patch with the donor {described['text']!r}.",
            "Its embeddings are not in the JSON, and it is not among the donors passed.",
            "Pass donors=[prompt], or pipe= to encode it again.",
        )
    prompt = Prompt(
        described["text"],
        ids[0],
        tuple(described["words"]),
        category,
        embeds,
        pooled,
        ids[1] if second is not None else None,
        tuple(described["pad_ids"]),
        segments=segments,
    )
    if prompt.digest != described["sha256"]:
        raise InterpError(
            f"Cannot read a patch with the donor {described['text']!r}.",
            "Encoded again, its embeddings differ from those the patch was made with: the text "
            "encoder, device, precision or version differ, or the embeddings were edited.",
            "Pass the donor itself in donors=, or write the patch with to_json(embeds=True).",
        )
    return prompt


def _decoded(described: dict[str, Any]) -> Tensor:
    raw = np.frombuffer(bytearray(base64.b64decode(described["embeds"])), dtype=np.uint8)
    flat = torch.from_numpy(raw).view(getattr(torch, described["dtype"]))
    return flat.reshape(described["shape"])
