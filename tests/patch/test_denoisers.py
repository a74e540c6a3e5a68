"""All that is given the text is patched, ControlNets as the UNet, or the patch is refused."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
)

import interp as ip
from interp import InterpError, encode
from tests.pipelines import WIDTH, pipeline, unet
from tests.runs import TEXTS, from_embeds, latents

Z = ip.zero("pad", fraction=0.7)


def controlled(kind: str, nets: int = 1) -> Any:
    """A pipeline with ControlNets whose outputs, zero at the beginning of training, matter."""
    base = pipeline(kind)
    made = [
        ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(16, 32))
        for _ in range(nets)
    ]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for net in made:
            for block in [*net.controlnet_down_blocks, net.controlnet_mid_block]:
                torch.nn.init.normal_(block.weight, std=0.1)
    shown = (
        StableDiffusionControlNetPipeline if kind == "sd1" else StableDiffusionXLControlNetPipeline
    )
    pipe = shown(**base.components, controlnet=made if nets > 1 else made[0])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def control(nets: int = 1, **more: Any) -> dict[str, Any]:
    images = [torch.full((1, 3, 32, 32), 0.2 * (n + 1)) for n in range(nets)]
    scales = [1.0] * nets if nets > 1 else 1.0
    return {
        "image": images if nets > 1 else images[0],
        "controlnet_conditioning_scale": scales,
        **more,
    }


@pytest.mark.parametrize(
    ("kind", "nets", "guess"),
    [("sd1", 1, False), ("sdxl", 1, False), ("sd1", 2, False), ("sd1", 1, True)],
)
def test_a_controlnet_is_given_the_edited_text_too(kind: str, nets: int, guess: bool) -> None:
    pipe = controlled(kind, nets)
    prompts = encode(pipe, TEXTS)
    (empty,) = encode(pipe, "")
    call = control(nets, guess_mode=guess)
    call["image"] = (
        [one.expand(2, -1, -1, -1) for one in call["image"]]
        if nets > 1
        else (call["image"].expand(2, -1, -1, -1))
    )
    known = {"tokens": prompts, "negative": empty}
    plain = [prompt.embeds for prompt in prompts]
    edited = [Z.embeds(prompt) for prompt in prompts]
    with Z.on(pipe, **known):
        ours = from_embeds(pipe, plain, prompts, empty, **call)
    theirs = from_embeds(pipe, edited, prompts, empty, **call)
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, from_embeds(pipe, plain, prompts, empty, **call), atol=1e-3)
    with Z.on(pipe):
        heard = latents(pipe, TEXTS, negative_prompt=["", ""], **call)
    assert torch.allclose(heard, theirs, atol=1e-3)


def test_steps_and_keys_are_patched_in_a_controlnet_as_in_the_unet() -> None:
    pipe = controlled("sd1")
    with Z.on(pipe):
        whole = latents(pipe, steps=3, **control())
    parts = (
        ip.zero("pad", fraction=0.7, steps=[0, 2], side="k")
        & ip.zero("pad", fraction=0.7, steps=[0, 2], side="v")
        & ip.zero("pad", fraction=0.7, steps=1)
    )
    with parts.on(pipe) as applied:
        assert torch.allclose(latents(pipe, steps=3, **control()), whole, atol=1e-4)
        assert applied.clock.step == 2
    with ip.zero("pad", fraction=0.7, steps=0).on(pipe):
        assert not torch.allclose(latents(pipe, steps=3, **control()), whole, atol=1e-3)


def test_layers_and_heads_are_those_of_the_unet() -> None:
    """A patch of all the UNet's layers by name leaves the ControlNet alone."""
    pipe = controlled("sd1")
    prompt, empty = encode(pipe, [TEXTS[0], ""])
    named = [site.name for site in ip.sites(pipe.unet)]
    with ip.zero("pad", fraction=0.7, layers=named).on(pipe):
        ours = latents(pipe, **control())
    before: Callable[..., Any] = lambda module, args, kwargs: (  # noqa: E731
        args,
        kwargs | {"encoder_hidden_states": torch.stack([empty.embeds, Z.embeds(prompt)])},
    )
    handle = pipe.unet.register_forward_pre_hook(before, with_kwargs=True)
    theirs = latents(pipe, **control())
    handle.remove()
    assert torch.equal(ours, theirs)


def test_an_exchanged_controlnet_is_noticed() -> None:
    pipe = controlled("sd1")
    handle = Z.install(pipe)
    pipe.controlnet = ControlNetModel.from_unet(pipe.unet)
    with pytest.raises(InterpError, match="exchanged"):
        latents(pipe, **control())
    handle.remove(check=False)


def test_other_modules_that_attend_to_the_text_are_refused() -> None:
    pipe = controlled("sd1")
    pipe.controlnet = pipeline("sd1").unet
    with pytest.raises(InterpError, match="Its controlnet, a UNet2DConditionModel, may attend"):
        Z.install(pipe)
    plain = pipeline("sd1")
    plain.unet.register_to_config(addition_embed_type="text")
    with pytest.raises(InterpError, match="adds the text to the time embedding"):
        Z.install(plain)


def test_a_projection_in_front_of_all_layers_comes_after_the_patch() -> None:
    """Zeros before a projection with a bias are not zeros behind it."""
    projecting = unet(
        heads=(2, 2), text=16, encoder_hid_dim=WIDTH, encoder_hid_dim_type="text_proj"
    )
    pipe = StableDiffusionPipeline(
        **{**pipeline("sd1").components, "unet": projecting}, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    prompt, empty = encode(pipe, [TEXTS[0], ""])
    patch = ip.zero("pad") & ip.repad("!", uncond=False)
    expected = from_embeds(pipe, [patch.embeds(prompt, pipe)], [prompt], empty)
    with patch.on(pipe):
        assert torch.equal(latents(pipe), expected)
    keys = ip.zero("pad", side="k") & ip.zero("pad", side="v")
    expected = from_embeds(pipe, [ip.zero("pad").embeds(prompt)], [prompt], empty)
    with keys.on(pipe):
        assert torch.allclose(latents(pipe), expected, atol=1e-5)


def test_guidance_is_mixed_once_behind_the_unet() -> None:
    pipe = controlled("sd1")
    with (ip.guide(3) & Z).on(pipe):
        ours = latents(pipe, **control())
    with Z.on(pipe):
        assert torch.equal(ours, latents(pipe, guidance_scale=3.0, **control()))


def test_nothing_is_asked_of_a_pipeline_that_diffusers_warns_of() -> None:
    """What a pipeline is made of are its components; its configuration holds settings too."""
    pipe = pipeline("sd1")
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        Z.install(pipe).remove()
        with ip.record(pipe) as log:
            latents(pipe, steps=1)
    assert log.dataset().sizes["step"] == 1
