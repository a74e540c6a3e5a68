"""What a patch does not touch: refused, or left alone with a warning, and never found out late."""

import warnings

import pytest
import torch

import interp as ip
from interp import InterpError, Patch, encode
from tests.runs import TEXTS, latents

FULL = " ".join(["goat"] * 75)


@pytest.mark.parametrize(
    ("patch", "text"),
    [(ip.zero("pad", steps=5), TEXTS[0]), (ip.zero("eot") & ip.zero("pad", steps=9), TEXTS[0])],
)
def test_a_patch_that_touched_nothing_is_an_error(sd1, patch: Patch, text: str) -> None:
    plain = latents(sd1, text)
    with pytest.raises(InterpError, match="touched nothing in 1 runs"), patch.on(sd1):
        latents(sd1, text)
    with patch.on(sd1, strict=False):
        latents(sd1, text)
    handle = patch.install(sd1, strict=True)
    latents(sd1, text)
    with pytest.raises(InterpError, match="touched nothing"):
        handle.remove()
    handle.remove()
    handle = patch.install(sd1)
    latents(sd1, text)
    with pytest.warns(UserWarning, match="touched nothing in 1 runs"):
        handle.remove()
    assert torch.equal(latents(sd1, text), plain)


@pytest.mark.parametrize(
    ("patch", "text", "left"),
    [
        (ip.zero("pad"), FULL, FULL),
        (ip.zero("prompt"), "", ""),
        (ip.repad(uncond=False), FULL, FULL),
        (ip.zero("pad", fraction=0.001), TEXTS[0], TEXTS[0]),
        (ip.zero("pad", uncond="only"), TEXTS[0], "this batch"),
    ],
)
def test_a_patch_that_would_touch_nothing_is_refused_before_it_runs(
    sd1, patch: Patch, text: str, left: str
) -> None:
    """A service, which installs a patch without `strict`, keeps the image and is told."""
    guided = {"guidance_scale": 1.0 if patch.operations[0].where.uncond else 7.5}
    plain, calls = latents(sd1, text, **guided), []
    counter = sd1.unet.mid_block.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(InterpError, match=f"{left}.*would touch nothing"), patch.on(sd1):
        latents(sd1, text, **guided)
    assert calls == []
    counter.remove()
    handle = patch.install(sd1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        left_alone = latents(sd1, text, **guided)
        handle.remove()
    said = [str(one.message) for one in caught]
    assert any("alone: it has no such positions" in one for one in said) == (left == text)
    assert any("touched nothing" in one for one in said)
    assert torch.equal(left_alone, plain)


def test_rows_without_pads_are_left_alone_beside_others(sd1) -> None:
    """The same rows as in a batch whose patch is that of the other prompt alone."""
    shield = ip.mitigations.repad_zero_eot()
    full, short = encode(sd1, [FULL, TEXTS[0]])
    with ip.apply(sd1, [(full, None), (short, ip.zero("pad"))]):
        expected = latents(sd1, (FULL, TEXTS[0]))
    with pytest.warns(UserWarning, match="alone"), ip.zero("pad").on(sd1):
        assert torch.equal(latents(sd1, (FULL, TEXTS[0])), expected)
    handle = shield.install(sd1)
    with pytest.warns(UserWarning, match="repad.* leaves Prompt.*75 prompt"):
        latents(sd1, FULL)
    handle.remove()


def test_touching_nothing_never_hides_another_error(sd1) -> None:
    with pytest.raises(KeyError, match="mine"), ip.zero("pad", steps=99).on(sd1):
        raise KeyError(latents(sd1) is None or "mine")
    with ip.zero("pad").on(sd1):
        pass
    with ip.zero("pad", fraction=0).on(sd1):
        latents(sd1)
