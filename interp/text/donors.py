"""Prompts with their embeddings as a dataset, and back: how donors are saved and exchanged.

Embeddings made elsewhere (averaged, optimised, taken from another run) become donors this way. Not
for attention or images: those are results of runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from interp.errors import InterpError
from interp.results.axes import POSITION
from interp.text.prompt import Prompt

LISTS = ("prompt", POSITION)


def as_dataset(prompts: Sequence[Prompt]) -> xr.Dataset:
    """Prompts as `embeds(prompt, position, channel)`, with everything that describes positions.

    Example:
        >>> ip.save(ip.as_dataset([a, b]), "donors.nc")

    Values are stored as float32 without loss; `as_prompts` restores the original dtype.

    Raises:
        InterpError: there are no prompts, or they are of different models.
    """
    kinds = {(tuple(p.embeds.shape), p.embeds.dtype, p.ids_2 is None) for p in prompts}
    if len(kinds) != 1:
        raise InterpError(
            f"Cannot make one dataset of {len(prompts)} prompts.",
            f"They have {len(kinds)} kinds of embeddings, but must all have the same.",
            "Make one dataset for each pipeline.",
        )
    first = prompts[0]
    embeds = torch.stack([prompt.embeds.detach().float().cpu() for prompt in prompts])
    data = xr.Dataset(
        {
            "embeds": ((*LISTS, "channel"), embeds.numpy()),
            "ids": (LISTS, np.stack([prompt.ids.cpu() for prompt in prompts])),
            "code": (LISTS, np.stack([prompt.category.cpu() for prompt in prompts])),
            "word": (LISTS, [list(prompt.words) for prompt in prompts]),
            "text": ("prompt", [prompt.text for prompt in prompts]),
            "truncated": ("prompt", [prompt.truncated for prompt in prompts]),
            "pad_id": (("prompt", "encoder"), [list(prompt.pad_ids) for prompt in prompts]),
        },
        attrs={
            "dtype": str(first.embeds.dtype).removeprefix("torch."),
            "segments": json.dumps(first.segments),
        },
    )
    if first.ids_2 is not None:
        data["ids_2"] = (LISTS, np.stack([p.ids_2.cpu() for p in prompts if p.ids_2 is not None]))
    if all(prompt.pooled is not None for prompt in prompts):
        pooled = [p.pooled.detach().float().cpu() for p in prompts if p.pooled is not None]
        data["pooled"] = (("prompt", "pooled_channel"), torch.stack(pooled).numpy())
    return data


def as_prompts(data: xr.Dataset) -> list[Prompt]:
    """The prompts of such a dataset.

    Example:
        >>> ip.save(ip.as_dataset([a, b]), "donors.nc")
        >>> a, b = ip.as_prompts(ip.open("donors.nc"))
        >>> swap("pad", donor=ip.open("donors.nc").isel(prompt=[1]))

    Raises:
        InterpError: it is not a dataset of prompts.
    """
    needed = {"embeds", "ids", "code", "word", "text", "truncated", "pad_id"}
    missing = sorted(needed - set(data.variables))
    if missing:
        raise InterpError(
            "Cannot read this dataset as prompts.",
            f"It has no {', '.join(missing)}.",
            "Make it with interp.as_dataset(prompts), then change its embeds as needed.",
        )
    dtype = getattr(torch, data.attrs.get("dtype", "float32"))
    rows = data if "prompt" in data.embeds.dims else data.expand_dims("prompt")
    segments = tuple(map(tuple, json.loads(data.attrs.get("segments", "[]"))))
    places = range(rows.sizes["prompt"])
    return [_prompt(rows.isel(prompt=place), dtype, segments) for place in places]


def _prompt(row: xr.Dataset, dtype: torch.dtype, segments: tuple[tuple[str, int], ...]) -> Prompt:
    second, pooled = row.get("ids_2"), row.get("pooled")
    embeds = row.embeds.transpose(POSITION, "channel").values
    return Prompt(
        str(row.text.values),
        torch.tensor(row.ids.values),
        tuple(map(str, row.word.values)),
        torch.tensor(row.code.values),
        torch.tensor(embeds, dtype=torch.float32).to(dtype),
        None if pooled is None else torch.tensor(pooled.values).to(dtype),
        None if second is None else torch.tensor(second.values),
        tuple(map(int, row.pad_id.values)),
        str(row.truncated.values),
        segments,
    )
