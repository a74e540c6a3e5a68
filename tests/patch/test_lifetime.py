"""Patches come off, stay off copies, and notice when what they are on was exchanged."""

import copy
import gc
import pickle
import weakref

import pytest
import torch

import interp as ip
from interp import InterpError, encode
from tests.conftest import hook_count
from tests.pipelines import pipeline
from tests.runs import TEXTS, from_embeds, latents

Z = ip.zero("pad", fraction=0.7)


@pytest.mark.parametrize("part", ["unet", "mid_block"])
def test_what_is_exchanged_inside_a_block_is_noticed(part: str) -> None:
    pipe = pipeline("sd1")
    owner = pipe if part == "unet" else pipe.unet
    handle = Z.install(pipe)
    setattr(owner, part, copy.deepcopy(getattr(owner, part)))
    with pytest.raises(InterpError, match="exchanged|another module"):
        latents(pipe)
    handle.remove(check=False)
    with Z.on(pipe):
        latents(pipe)


def test_leaving_a_block_with_another_unet_is_an_error() -> None:
    pipe = pipeline("sd1")
    block = Z.on(pipe)
    block.__enter__()
    latents(pipe)
    pipe.unet = copy.deepcopy(pipe.unet)
    with pytest.raises(InterpError, match="exchanged for another module"):
        block.__exit__(None, None, None)


def test_an_exchanged_unet_is_noticed_without_encoding() -> None:
    pipe = pipeline("sd1")
    prompt, empty = encode(pipe, [TEXTS[0], ""])
    handle = Z.install(pipe)
    pipe.unet = copy.deepcopy(pipe.unet)
    from_embeds(pipe, [prompt.embeds], [prompt], empty)
    with pytest.raises(InterpError, match="exchanged for another module"):
        handle.remove()
    handle.remove()


@pytest.mark.parametrize("part", ["unet", "mid_block"])
def test_what_is_exchanged_while_it_is_recorded_is_noticed(part: str) -> None:
    pipe = pipeline("sd1")
    owner = pipe if part == "unet" else pipe.unet
    block = ip.record(pipe)
    block.__enter__()
    latents(pipe)
    setattr(owner, part, copy.deepcopy(getattr(owner, part)))
    with pytest.raises(InterpError, match="exchanged|another module"):
        latents(pipe) if part == "mid_block" else block.__exit__(None, None, None)


def test_copies_have_no_patches_and_record_nothing() -> None:
    pipe = pipeline("sd1")
    plain = latents(pipe)
    with Z.on(pipe), ip.record(pipe) as log:
        patched = latents(pipe)
        copied = copy.deepcopy(pipe)
        saved = pickle.loads(pickle.dumps(pipe.unet))
        assert torch.equal(latents(copied), plain)
        copied.unet = saved
        assert torch.equal(latents(copied), plain)
        assert ip.installed(copied) == []
        with Z.on(copied):
            assert torch.equal(latents(copied), patched)
        assert torch.equal(latents(pipe), patched)
    assert len(log.runs) == 2
    assert torch.equal(latents(copied), plain)


def test_a_lost_handle_is_found_again(sd1) -> None:
    before, plain = hook_count(sd1), latents(sd1)
    Z.install(sd1)
    once = latents(sd1)
    with pytest.warns(UserWarning, match="already on this pipeline and now applies twice"):
        Z.install(sd1)
    assert [repr(one) for one in ip.installed(sd1)] == ["Applied(zero('pad', fraction=0.7))"] * 2
    assert torch.equal(latents(sd1), once)
    ip.remove(sd1)
    assert ip.installed(sd1) == []
    assert hook_count(sd1) == before
    assert torch.equal(latents(sd1), plain)


@pytest.mark.parametrize("lost", [True, False])
def test_a_patched_model_can_be_forgotten(lost: bool) -> None:
    pipe = pipeline("sd1")
    unet = weakref.ref(pipe.unet)
    handle = Z.install(pipe)
    latents(pipe)
    if not lost:
        handle.remove()
    del pipe, handle
    gc.collect()
    assert unet() is None
