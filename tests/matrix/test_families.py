"""Every kind of pipeline is patched and recorded exactly, or refused with its name."""

from typing import Any

import pytest
import torch

import interp as ip
from interp import InterpError
from tests.matrix.families import BY_NAME, FAMILIES, TEXT, of
from tests.matrix.oracle import EFFECT, Z, attention_to_pads, encoders_edited, run


def made(name: str) -> Any:
    pipe = FAMILIES[name].make()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("name", FAMILIES)
def test_patches_are_exact_or_refused(name: str) -> None:
    family, pipe = FAMILIES[name], made(name)
    plain = run(pipe, **family.call())
    with encoders_edited(pipe):
        right = run(pipe, **family.call())
    assert (right - plain).abs().max() > EFFECT
    if family.refused is not None:
        with pytest.raises(InterpError, match=family.refused), Z.on(pipe):
            run(pipe, **family.call())
    else:
        with Z.on(pipe):
            assert torch.equal(run(pipe, **family.call()), right)
    assert torch.equal(run(pipe, **family.call()), plain)


@pytest.mark.parametrize("name", FAMILIES)
def test_records_are_exact_or_refused(name: str) -> None:
    family, pipe = FAMILIES[name], made(name)
    if family.unrecorded is not None:
        with pytest.raises(InterpError, match=family.unrecorded), ip.record(pipe):
            run(pipe, **family.call())
        return
    with attention_to_pads(pipe) as seen, ip.record(pipe) as log:
        run(pipe, **family.call())
    data = log.dataset()
    assert data.text.values.tolist() == [TEXT]
    mass = data.mass.isel(prompt=0).sel(category="pad").transpose("layer", "head", "step", ...)
    for layer, calls in seen.items():
        theirs = torch.cat(calls).flatten().sort().values
        ours = torch.as_tensor(mass.sel(layer=layer).values).flatten()
        assert torch.allclose(ours[~ours.isnan()].sort().values, theirs, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_sessions_run_text_to_image_and_refuse_others(name: str) -> None:
    family, pipe = FAMILIES[name], made(name)
    if not family.session:
        with pytest.raises(InterpError, match=f"A session with a {type(pipe).__name__}"):
            ip.Session(pipe)
        return
    sd = ip.Session(pipe, steps=2)
    with encoders_edited(pipe):
        right = ip.Session(pipe, steps=2).run(TEXT)
    assert (sd.run(TEXT, patch=Z).image == right.image).all()


@pytest.mark.parametrize("name", BY_NAME)
def test_some_are_refused_by_their_class_and_those_derived_from_it(name: str) -> None:
    base = "sdxl" if "XL" in name else "sd1"
    pipe = of(name, base)()
    derived = type("Mine", (type(pipe),), {})
    pipe.__class__ = derived
    with pytest.raises(InterpError, match="A Mine was to be patched"):
        Z.install(pipe)
    with pytest.raises(InterpError, match="A Mine was to be patched"), ip.record(pipe):
        pass
