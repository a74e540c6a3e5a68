"""A patch is a value: it prints, hashes, survives JSON, and refuses what cannot be meant."""

import dataclasses
import inspect
from typing import Any

import pytest
import torch

import interp as ip
from interp import InterpError, Patch, encode
from interp.patch import Where
from interp.patch.operations import Copy, Swap
from tests.runs import TEXTS


def test_a_patch_is_a_value(sd1) -> None:
    a, b = encode(sd1, TEXTS)
    one = ip.swap("pad", donor=a, layers="up", steps=slice(0, 10), heads=[1, 0])
    same = ip.swap(
        "pad", donor=encode(sd1, TEXTS[0])[0], layers="up", steps=range(10), heads=(0, 1)
    )
    assert one == same
    assert hash(one) == hash(same)
    assert one != ip.swap("pad", donor=b, layers="up", steps=slice(0, 10), heads=[1, 0])
    assert len({one, same, one & same, ip.zero("pad")}) == 3
    with pytest.raises(AttributeError):
        one.operations = ()  # type: ignore[misc]


@pytest.mark.parametrize(
    ("patch", "text"),
    [
        (lambda a: Patch(), "Patch()"),
        (lambda a: ip.zero("pad", fraction=0.7), "zero('pad', fraction=0.7)"),
        (
            lambda a: ip.swap("pad", a, layers="up", steps=slice(0, 10), side="k"),
            "swap('pad', donor='a photo of a goat', layers='up', steps=0:10, side='k')",
        ),
        (
            lambda a: ip.repad() & ip.zero("eot", steps=slice(3, None)),
            "repad('!') & zero('eot', steps=3:)",
        ),
        (lambda a: ip.repad("x", uncond=False), "repad('x', uncond=False)"),
        (
            lambda a: ip.copy("pad", ("eot", "prompt"), "mean", layers=slice(-3, None)),
            "copy('pad', to=('prompt', 'eot'), reduce='mean', layers=-3:)",
        ),
        (lambda a: ip.scale("sot", 1.25), "scale('sot', factor=1.25)"),
        (
            lambda a: ip.mask(("eot", "pad"), heads={"up": 1}),
            "mask(('eot', 'pad'), heads={'up': (1,)})",
        ),
        (lambda a: ip.noise("pad", 0.1, 3, steps=5), "noise('pad', std=0.1, seed=3, steps=(5,))"),
        (
            lambda a: ip.mean("pad", [a, a], uncond="only"),
            "mean('pad', over=2 prompts, uncond='only')",
        ),
    ],
)
def test_a_patch_prints_as_what_it_does_and_round_trips(sd1, patch: Any, text: str) -> None:
    (a,) = encode(sd1, TEXTS[0])
    made = patch(a)
    assert repr(made) == text
    for again in (
        Patch.from_json(made.to_json(), pipe=sd1),
        Patch.from_json(made.to_json(), donors=[a]),
        Patch.from_json(made.to_json(embeds=True)),
    ):
        assert again == made
        assert hash(again) == hash(made)
        assert repr(again) == text


def test_html_lists_the_operations_in_order_and_is_escaped(sd1) -> None:
    (a,) = encode(sd1, "<script>alert(1)</script>")
    html = (ip.swap("pad", a, layers="up") & ip.zero(("prompt", "eot")))._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<li>") == 2
    assert html.index("swap(") < html.index("zero(")
    first, second = html.split("</li>")[:2]
    assert ">pad<" in first
    assert ">prompt<" in second
    assert ">eot<" in second
    assert "changes nothing" in Patch()._repr_html_()


def test_steps_and_heads_are_ascending_and_each_once() -> None:
    where = Where(steps=[2, 0, 2], heads=[3, 1, 3])
    assert (where.steps, where.heads) == ((0, 2), (1, 3))


def test_a_donor_comes_back_in_its_own_precision(make_pipe) -> None:
    pipe = make_pipe("sdxl", torch.bfloat16)
    (a,) = encode(pipe, TEXTS[0])
    patch = ip.swap("pad", a)
    assert Patch.from_json(patch.to_json(), pipe=pipe) == patch
    back = Patch.from_json(patch.to_json(embeds=True)).operations[0].donor
    assert torch.equal(back.embeds, a.embeds)


def test_json_that_is_no_patch_and_donors_that_are_lost(sd1, sd2) -> None:
    (a,) = encode(sd1, TEXTS[0])
    text = ip.swap("pad", a).to_json()
    with pytest.raises(InterpError, match="Pass donors="):
        Patch.from_json(text)
    with pytest.raises(InterpError, match="differ from those the patch was made with"):
        Patch.from_json(text, pipe=sd2)
    broken = ip.swap("pad", a).to_json(embeds=True)
    start = broken.index('"embeds": "') + len('"embeds": "')
    for bad in (text[: len(text) // 2], broken[:start] + broken[start + 101 :]):
        with pytest.raises(InterpError, match="not the JSON of a patch"):
            Patch.from_json(bad)
    for bad in ("", "[1]", '[{"operation": "explode"}]', '{"a": 1}', '[{"operation": "zero"}]'):
        with pytest.raises(InterpError, match="not the JSON of a patch"):
            Patch.from_json(bad)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ip.zero("padding"), "There are sot, prompt, eot, pad"),
        (lambda: ip.zero(()), "There are sot, prompt, eot, pad"),
        (lambda: ip.zero("pad", fraction=70), "between 0 and 1"),
        (lambda: ip.zero("pad", fraction=float("nan")), "between 0 and 1"),
        (lambda: ip.zero("pad", steps=-1), "counted from 0"),
        (lambda: ip.zero("pad", steps=slice(-5, None)), "counted from 0"),
        (lambda: ip.zero("pad", steps=slice(5, 5)), "Pass at least one step"),
        (lambda: ip.zero("pad", steps=[]), "Pass at least one step"),
        (lambda: ip.zero("pad", heads=[]), "empty list of heads"),
        (lambda: ip.noise("pad", std=-1, seed=0), "finite and not negative"),
        (lambda: ip.noise("pad", std=float("inf"), seed=0), "finite"),
        (lambda: ip.scale("pad", float("inf")), "Use mask"),
        (lambda: ip.mean("pad", over=[]), "It takes at least one"),
        (lambda: _checked(Swap, categories=("pad",), align="middle"), "align='middle'"),
        (lambda: _checked(Copy, categories=("eot",), reduce="median"), "reduce='median'"),
        (lambda: _checked(Where, side="q"), "side='q'"),
        (lambda: _checked(Where, uncond="both"), "uncond='both'"),
    ],
)
def test_what_can_not_be_meant_is_refused_when_the_patch_is_made(make: Any, message: str) -> None:
    with pytest.raises(InterpError, match=message):
        make()


@pytest.mark.parametrize(
    ("made", "edited", "message"),
    [
        (ip.zero("pad", 0.5), ("0.5", "7"), "between 0 and 1"),
        (ip.zero("pad", 0.5), ('"pad"', '"padding"'), "There are sot, prompt, eot, pad"),
        (ip.noise("pad", 0.25, seed=0), ("0.25", "-1"), "finite and not negative"),
        (ip.scale("pad", 0.5), ("0.5", "Infinity"), "Use mask"),
        (ip.copy("eot", to="pad"), ('"eot"', '"end"'), "There are sot, prompt, eot, pad"),
    ],
)
def test_json_edited_by_hand_is_checked_as_the_verbs_are(
    made: Patch, edited: tuple[str, str], message: str
) -> None:
    text = made.to_json()
    assert text.count(edited[0]) == 1
    with pytest.raises(InterpError, match=message):
        Patch.from_json(text.replace(*edited))


def _checked(kind: type, **fields: Any) -> None:
    """The value's own checks of its fields, which the shape checker would otherwise forestall."""
    value = object.__new__(kind)
    for field in dataclasses.fields(kind):
        object.__setattr__(value, field.name, fields.get(field.name, field.default))
    inspect.unwrap(kind.__post_init__)(value)
