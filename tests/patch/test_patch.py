"""Patches: values, operations against hand-made embeddings, places, errors."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import interp as ip
from interp import InterpError, Patch, Prompt, encode
from interp.patch import Where
from interp.patch.operations import Copy, Swap
from tests.conftest import hook_count
from tests.runs import TEXTS, from_embeds, latents, processor

LONG = "a rather long prompt about an antique church poster in the old city of Berlin"


def with_rows(embeds: Tensor, places: Any, new: Any) -> Tensor:
    changed = embeds.clone()
    changed[places] = new
    return changed


def hand_made(pipe: Any, a: Prompt, b: Prompt) -> dict[str, tuple[Patch, Callable[[], Tensor]]]:
    """Patches beside the embeddings that they stand for, made by plain indexing."""
    e, f, x, y = a.e, b.e, a.embeds, b.embeds
    bang = encode(pipe, a.text, pad_token="!")[0].embeds
    first = e + 1 + int((76 - e) * 0.7)
    drawn = torch.randn(x.shape, generator=torch.Generator().manual_seed(5)) * 0.1
    return {
        "pr masked": (ip.zero("prompt"), lambda: with_rows(x, slice(1, e), 0)),
        "eot and pad masked": (ip.zero(("eot", "pad")), lambda: with_rows(x, slice(e, None), 0)),
        "70 % of pads": (ip.zero("pad", 0.7), lambda: with_rows(x, slice(e + 1, first), 0)),
        "pad from eot": (ip.copy("eot", to="pad"), lambda: with_rows(x, slice(e + 1, None), x[e])),
        "pr and pad from eot": (
            ip.copy("eot", to=("prompt", "pad")),
            lambda: with_rows(x, slice(1, None), x[e]),
        ),
        "pr and eot from mean pad": (
            ip.copy("pad", to=("prompt", "eot"), reduce="mean"),
            lambda: with_rows(x, slice(1, e + 1), x[e + 1 :].mean(0)),
        ),
        "other pads": (ip.repad("!", uncond=False), lambda: bang),
        "other pads and no eot": (
            ip.repad("!", uncond=False) & ip.zero("eot"),
            lambda: with_rows(bang, e, 0),
        ),
        "donor's eot": (ip.swap("eot", b), lambda: with_rows(x, e, y[f])),
        "donor's pads, nearest": (
            ip.swap("pad", b, "nearest"),
            lambda: with_rows(x, slice(e + 1, None), y[[max(i, f + 1) for i in range(e + 1, 77)]]),
        ),
        "donor's mean pad": (
            ip.swap("pad", b, "mean"),
            lambda: with_rows(x, slice(e + 1, None), y[f + 1 :].mean(0)),
        ),
        "mean prompt over both": (
            ip.mean("prompt", over=[a, b]),
            lambda: with_rows(x, slice(1, e), (x[1:e].mean(0) + y[1:f].mean(0)) / 2),
        ),
        "noise": (ip.noise(ip.CATEGORIES, 0.1, seed=5), lambda: x + drawn),
        "longer": (
            ip.scale("pad", 1.5, side="kv"),
            lambda: with_rows(x, slice(e + 1, None), 1.5 * x[e + 1 :]),
        ),
    }


NAMES = (
    "pr masked",
    "eot and pad masked",
    "70 % of pads",
    "pad from eot",
    "pr and pad from eot",
    "pr and eot from mean pad",
    "other pads",
    "other pads and no eot",
    "donor's eot",
    "donor's pads, nearest",
    "donor's mean pad",
    "mean prompt over both",
    "noise",
    "longer",
)


@pytest.mark.parametrize("name", NAMES)
def test_operations_give_hand_made_embeddings(pipe, name: str) -> None:
    a, b = encode(pipe, [TEXTS[0], LONG])
    patches = hand_made(pipe, a, b)
    assert tuple(patches) == NAMES
    patch, by_hand = patches[name]
    before = a.embeds.clone()
    assert torch.equal(patch.embeds(a, pipe), by_hand())
    assert torch.equal(a.embeds, before)
    assert torch.equal(patch.embeds(a, pipe, uncond=True), a.embeds)


def test_alignments_of_prompts_of_different_lengths(sd1) -> None:
    short, long = encode(sd1, [TEXTS[0], LONG])
    n, m = short.counts["prompt"], long.counts["prompt"]
    for align in ("position", "offset"):
        swapped = ip.swap("prompt", long, align).embeds(short)
        assert torch.equal(swapped[1 : n + 1], long.embeds[1 : n + 1])
        with pytest.raises(
            InterpError, match=f"has {m} of them at 1 to {m}, the donor {n}, at 1 to {n}"
        ):
            ip.swap("prompt", short, align).embeds(long)
    by_position = ip.swap("pad", short).embeds(long)
    assert torch.equal(by_position[long.e + 1 :], short.embeds[long.e + 1 :])
    by_offset = ip.swap("pad", short, "offset").embeds(long)
    count = long.counts["pad"]
    assert torch.equal(by_offset[long.e + 1 :], short.embeds[short.e + 1 :][:count])
    with pytest.raises(InterpError, match="Choose align='nearest' or 'mean'"):
        ip.swap("pad", long).embeds(short)


def test_a_donor_without_the_category_is_refused(sd1) -> None:
    full, empty, some = encode(sd1, [" ".join(["goat"] * 75), "", TEXTS[0]])
    for align in ("position", "offset", "nearest", "mean"):
        with pytest.raises(InterpError, match=r"nowhere|has no pad"):
            ip.swap("pad", full, align).embeds(some)
    with pytest.raises(InterpError, match="Choose a donor that has some"):
        ip.swap("prompt", empty).embeds(some)
    assert torch.equal(ip.swap("prompt", some).embeds(empty), empty.embeds)


def test_a_donor_of_another_model_is_refused(sd1, sdxl) -> None:
    (small,), (large,) = encode(sd1, TEXTS[0]), encode(sdxl, TEXTS[0])
    with pytest.raises(InterpError, match=r"shape \(77, 64\).*shape \(77, 32\)|Encode the donor"):
        ip.swap("pad", small).embeds(large)
    with (
        pytest.raises(InterpError, match="Encode the donor with the same pipeline"),
        ip.swap("pad", large).on(sd1),
    ):
        latents(sd1)


def test_several_sources_need_a_mean(sd1) -> None:
    (a,) = encode(sd1, TEXTS[0])
    with pytest.raises(InterpError, match="Say reduce='mean'"):
        ip.copy("pad", to="eot").embeds(a)


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
    with pytest.raises(InterpError, match="not the ones that the patch was made with"):
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
        (lambda: ip.zero("pad", steps=slice(5, 5)), "Name at least one step"),
        (lambda: ip.zero("pad", steps=[]), "Name at least one step"),
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


def test_what_the_model_has_not_is_refused_before_it_runs(sd1, sd2) -> None:
    before = hook_count(sd1)
    for patch, message in (
        (ip.zero("pad", layers="up.9"), "selects none of the 7"),
        (ip.zero("pad", heads=2), "It has 2 heads, 0 to 1"),
        (ip.zero("pad", heads={"down.9": 0}), "selects none of the 7"),
        (ip.zero("pad", layers="up", heads={"down": 0}), "Leave layers= out"),
    ):
        with pytest.raises(InterpError, match=message):
            patch.install(sd1)
        with pytest.raises(InterpError, match=message), patch.on(sd1):
            latents(sd1)
    assert hook_count(sd1) == before
    with pytest.raises(InterpError, match="of layer down.0.0 were asked for"):
        ip.zero("pad", heads=[1]).install(sd2)
    ip.zero("pad", heads={"down.1": [1, 3], "mid": 0}).install(sd2).remove()


def test_masking_everything_is_refused(sd1) -> None:
    with pytest.raises(InterpError, match="no key left"), ip.mask(ip.CATEGORIES).on(sd1):
        latents(sd1)
    with ip.mask(("prompt", "eot", "pad")).on(sd1), ip.record(sd1) as log:
        latents(sd1)
    assert float(log.dataset().mass.sel(category="sot").min()) == 1


def test_embeddings_of_a_restricted_patch_do_not_exist(sd1) -> None:
    (a,) = encode(sd1, TEXTS[0])
    for patch in (
        ip.mask("pad"),
        ip.zero("pad", layers="up"),
        ip.scale("sot", 2),
        ip.zero("pad", steps=0),
    ):
        assert not patch.edits_embeddings
        with pytest.raises(InterpError, match="more than an edit of the embeddings"):
            patch.embeds(a)
    with pytest.raises(InterpError, match="Pass the pipeline"):
        ip.repad().embeds(a)
    assert ip.zero("pad", layers="all").edits_embeddings
    assert torch.equal(Patch().embeds(a), a.embeds)


def test_unconditional_rows_that_nobody_describes_can_not_be_patched(sd1) -> None:
    prompt, empty = encode(sd1, [TEXTS[0], ""])
    with pytest.raises(InterpError, match="negative=interp.encode"), ip.repad().on(sd1, prompt):
        from_embeds(sd1, [prompt.embeds], [prompt], empty)
    with ip.repad().on(sd1, prompt, negative=empty):
        from_embeds(sd1, [prompt.embeds], [prompt], empty)


def test_steps_restrict_to_unet_calls(sd1) -> None:
    """A patch of all steps, one after the other, is the patch of all steps."""
    with ip.zero("pad").on(sd1):
        whole = latents(sd1, steps=3)
    with ip.zero("pad", steps=[0, 2]).on(sd1), ip.zero("pad", steps=1).on(sd1):
        parts = latents(sd1, steps=3)
    assert torch.equal(whole, parts)
    with ip.zero("pad", steps=0).on(sd1):
        first = latents(sd1, steps=3)
    with ip.zero("pad", steps=slice(1, None)).on(sd1):
        rest = latents(sd1, steps=3)
    assert len({float(images.sum()) for images in (whole, first, rest, latents(sd1, steps=3))}) == 4


def test_patches_follow_layers_and_heads_one_by_one(pipe) -> None:
    """All layers and heads, each by a patch of its own, are all of them at once."""
    layers = ip.sites(pipe.unet)
    with ip.zero("pad").on(pipe):
        whole = latents(pipe)
    parts = Patch()
    for site in layers:
        for head in range(site.heads):
            parts &= ip.zero("pad", layers=site.name, heads=head)
    with parts.on(pipe):
        assert torch.allclose(latents(pipe), whole, atol=1e-5)
    per_layer = {site.name: list(range(site.heads)) for site in layers}
    with ip.zero("pad", heads=per_layer).on(pipe):
        assert torch.equal(latents(pipe), whole)


def test_lora_is_part_of_what_is_patched(sd1) -> None:
    """A patch entered before or after the adapter was loaded does the same."""
    from peft import LoraConfig

    config = LoraConfig(r=2, target_modules=["to_k", "to_v", "to_q"], init_lora_weights=False)
    patch = ip.zero("pad", side="k", heads=0)
    plain = latents(sd1)
    with patch.on(sd1):
        without = latents(sd1)
    handle, log_context = patch.install(sd1), ip.record(sd1)
    with log_context as log:
        latents(sd1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            sd1.unet.add_adapter(config)
        early = latents(sd1)
    handle.remove()
    with patch.on(sd1), ip.record(sd1) as late_log:
        late = latents(sd1)
    lora = latents(sd1)
    sd1.unet.delete_adapters("default")
    _unwrap(sd1.unet)
    assert torch.equal(early, late)
    assert not torch.equal(late, without)
    assert not torch.equal(late, lora)
    data = log.dataset().mass.isel(seed=1).values
    assert (abs(data - late_log.dataset().mass.isel(seed=0).values) < 1e-6).all()
    assert torch.equal(latents(sd1), plain)


def _unwrap(unet: Any) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(unet.named_modules()):
        if isinstance(module, BaseTunerLayer):
            parent, _, child = name.rpartition(".")
            setattr(unet.get_submodule(parent), child, module.get_base_layer())
    unet._hf_peft_config_loaded = False


def test_switching_processors_inside_a_block(sd1) -> None:
    patch = ip.zero("pad", side="k", heads=0)
    with patch.on(sd1):
        expected = latents(sd1)
        with processor(sd1, "fused"):
            fused = latents(sd1)
        with processor(sd1, "sliced"):
            sliced = latents(sd1)
        after = latents(sd1)
    assert torch.allclose(fused, expected, atol=1e-4)
    assert torch.allclose(sliced, expected, atol=1e-4)
    assert torch.equal(after, expected)


def test_gradients_flow_through_patches_and_recorders(pipe) -> None:
    """d(prediction)/d(embeddings) is 0 where a patch replaced them, and right elsewhere."""
    (prompt,) = encode(pipe, TEXTS[0])
    sample = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    added = {}
    if prompt.pooled is not None:
        added = {"text_embeds": prompt.pooled[None], "time_ids": torch.zeros(1, 6)}

    def score(embeds: Tensor) -> Tensor:
        return pipe.unet(sample, 500, embeds[None], added_cond_kwargs=added).sample.pow(2).sum()

    embeds = prompt.embeds.clone().requires_grad_()
    keys = ip.zero("eot", side="k", heads=0) & ip.scale("sot", 1.3)
    with (
        (ip.zero("pad") & keys).on(pipe, prompt, guided=False),
        ip.record(pipe, tokens=prompt, guided=False),
    ):
        (gradient,) = torch.autograd.grad(score(embeds), embeds)
        direction = torch.zeros_like(prompt.embeds)
        direction[2, 5] = 1e-2
        with torch.no_grad():
            numeric = score(prompt.embeds + direction) - score(prompt.embeds - direction)
    assert not gradient[prompt.at("pad")].any()
    assert gradient[prompt.at(("sot", "prompt", "eot"))].abs().sum(-1).all()
    assert torch.isclose(numeric / 2e-2, gradient[2, 5], rtol=0.05, atol=1e-2)
