"""Patches: operations against hand-made embeddings, places, errors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import interp as ip
from interp import InterpError, Patch, Prompt, encode
from tests.conftest import hook_count
from tests.runs import TEXTS, from_embeds, latents

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
    with pytest.raises(InterpError, match="Use align='nearest' or 'mean'"):
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
    with pytest.raises(InterpError, match="Use reduce='mean'"):
        ip.copy("pad", to="eot").embeds(a)


def test_what_the_model_has_not_is_refused_before_it_runs(sd1, sd2) -> None:
    before = hook_count(sd1)
    for patch, message in (
        (ip.zero("pad", layers="up.9"), "selects none of the 7"),
        (ip.zero("pad", heads=2), "It has 2 heads, 0 to 1"),
        (ip.zero("pad", heads={"down.9": 0}), "selects none of the 7"),
        (ip.zero("pad", layers="up", heads={"down": 0}), "Leave out layers="),
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
        with pytest.raises(InterpError, match="more than edit embeddings"):
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
