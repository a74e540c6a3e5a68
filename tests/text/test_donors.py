"""Prompts survive being datasets, and datasets can be donors."""

from pathlib import Path

import pytest
import torch
import xarray as xr

import interp as ip
from interp import InterpError, as_dataset, as_prompts, encode
from tests.runs import TEXTS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_prompts_come_back_as_they_were(
    make_pipe, tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    prompts = encode(make_pipe(kind, dtype), [*TEXTS, ""])
    path = ip.save(as_dataset(prompts), tmp_path / "donors.nc")
    again = as_prompts(ip.open(path))
    assert again == prompts
    for old, new in zip(prompts, again, strict=True):
        assert torch.equal(old.embeds, new.embeds)
        assert (old.text, old.words, old.pad_ids) == (new.text, new.words, new.pad_ids)
        for name in ("ids_2", "pooled"):
            before, after = getattr(old, name), getattr(new, name)
            assert (before is None) == (after is None)
            assert before is None or torch.equal(before, after)


def test_a_dataset_is_a_donor(sd1) -> None:
    a, b = encode(sd1, TEXTS)
    data = as_dataset([a, b])
    for donor in (data.isel(prompt=[1]), data.isel(prompt=1)):
        assert ip.swap("eot", donor) == ip.swap("eot", b)
    assert ip.mean("pad", over=data) == ip.mean("pad", over=[a, b])
    louder = ip.swap("eot", data.assign(embeds=2 * data.embeds).isel(prompt=[1]))
    assert torch.equal(louder.embeds(a)[a.e], 2 * b.embeds[b.e])
    with pytest.raises(InterpError, match="It takes one"):
        ip.swap("eot", data)


def test_a_donor_with_nan_is_refused(sd1) -> None:
    data = as_dataset(encode(sd1, TEXTS))
    with pytest.raises(InterpError, match="'a photo of a goat' was given embeddings that are not"):
        ip.mean("pad", over=data.assign(embeds=data.embeds.where(data.embeds < 0)))


def test_what_is_no_dataset_of_prompts_is_refused(sd1, sdxl) -> None:
    with pytest.raises(InterpError, match="It has no code, embeds"):
        as_prompts(xr.Dataset())
    with pytest.raises(InterpError, match="2 kinds of embeddings"):
        as_dataset([encode(sd1, "goat")[0], encode(sdxl, "goat")[0]])
    with pytest.raises(InterpError, match="Cannot make one dataset of 0 prompts"):
        as_dataset([])
