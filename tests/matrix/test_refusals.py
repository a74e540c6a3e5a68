"""What can not be patched or recorded is refused in one sentence, before anything runs."""

import sys
from typing import Any

import diffusers
import pytest
import torch
from diffusers.modular_pipelines import StableDiffusionXLAutoBlocks
from einops import rearrange

import interp as ip
from interp import InterpError, encode
from tests.matrix.families import FAMILIES, TEXT, control, denoiser
from tests.matrix.oracle import EFFECT, Z, run
from tests.pipelines import pipeline
from tests.runs import TEXTS, from_embeds, latents


class Other:
    """Something that is no pipeline of ours."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"transformer": torch.nn.Linear(1, 1)}, "It denoises with a Linear"),
        ({}, "It has no UNet"),
        ({"unet": torch.nn.Linear(1, 1)}, "Its UNet is a Linear; supported are UNet2D"),
    ],
)
def test_other_models_are_named(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(InterpError, match=message):
        Z.install(Other(**parts))
    with pytest.raises(InterpError, match=message), ip.record(Other(**parts)):
        pass
    with pytest.raises(InterpError, match=message):
        ip.installed(Other(**parts))


def test_three_dimensional_unets_are_named() -> None:
    unet = diffusers.UNet3DConditionModel(
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=8,
        layers_per_block=1,
    )
    with pytest.raises(InterpError, match="Its UNet is a UNet3DConditionModel"):
        Z.install(Other(unet=unet))


def test_modular_pipelines_are_named() -> None:
    modular = StableDiffusionXLAutoBlocks().init_pipeline()
    with pytest.raises(InterpError, match="A modular pipeline calls its UNet"):
        Z.install(modular)
    modular.update_components(unet=pipeline("sdxl").unet)
    with pytest.raises(InterpError, match="A modular pipeline calls its UNet"), ip.record(modular):
        pass


def test_unets_that_are_given_no_text_are_named(sd1: Any) -> None:
    """AudioLDM gives its text as a class, and its layers attend to themselves."""
    size = {"projection_class_embeddings_input_dim": 8}
    unet = denoiser(text=(16, 32), class_embed_type="simple_projection", **size)()
    audio = Other(unet=unet, text_encoder=sd1.text_encoder, tokenizer=sd1.tokenizer)
    call = {"encoder_hidden_states": None, "class_labels": torch.zeros(1, 8)}
    with pytest.raises(InterpError, match="Its UNet is given none"), Z.on(audio):
        unet(torch.zeros(1, 4, 16, 16), 1, **call)
    with pytest.raises(InterpError, match="Its UNet is given none"), ip.record(audio):
        unet(torch.zeros(1, 4, 16, 16), 1, **call)


def test_layers_of_controlnet_xs_come_in_the_order_in_which_they_run() -> None:
    pipe = FAMILIES["StableDiffusionControlNetXSPipeline"].make()
    pipe.set_progress_bar_config(disable=True)
    ran: list[str] = []
    for site in ip.sites(pipe.unet):
        layer = pipe.unet.get_submodule(site.path)
        layer.register_forward_pre_hook(lambda *_, name=site.name: ran.append(name))
    run(pipe, steps=1, **control())
    assert ran == [site.name for site in ip.sites(pipe.unet)]


def test_a_session_is_its_pipeline(sd1: Any) -> None:
    sd = ip.Session(sd1)
    with Z.on(sd1):
        right = run(sd1)
    with Z.on(sd) as applied, ip.record(sd) as log:
        assert torch.equal(run(sd1), right)
        assert ip.installed(sd) == [applied]
    assert log.dataset().text.values.tolist() == [TEXT]
    Z.install(sd)
    ip.remove(sd)
    assert ip.installed(sd1) == []


def test_a_compiled_forward_is_noticed_before_the_run(sd1: Any) -> None:
    sd1.unet.forward = torch.compile(sd1.unet.forward)
    try:
        with pytest.raises(InterpError, match="It is compiled"):
            Z.install(sd1)
        with pytest.raises(InterpError, match="It is compiled"), ip.record(sd1):
            pass
    finally:
        del sd1.unet.forward


def test_described_prompts_that_were_not_given_are_refused(pipe: Any) -> None:
    """Where the text was heard, it is known what the rows hold."""
    a, b = encode(pipe, TEXTS)
    with Z.on(pipe, tokens=a):
        assert latents(pipe, TEXTS[0]).isfinite().all()
    heard = "The row holds what .* returned for 'a photo of a goat'"
    with pytest.raises(InterpError, match=heard), Z.on(pipe, tokens=b):
        latents(pipe, TEXTS[0])


def test_rows_that_nothing_tells_apart_are_refused(sd1: Any) -> None:
    """The UNet is called directly, where what the pipeline says is of its last run."""
    (prompt,) = encode(sd1, TEXT)
    sample, text = torch.zeros(2, 4, 16, 16), torch.stack([prompt.embeds] * 2)
    latents(sd1)
    unsaid = "does not say whether guidance is on"
    with pytest.raises(InterpError, match=unsaid), Z.on(sd1, tokens=prompt):
        sd1.unet(sample, 1, encoder_hidden_states=text)
    seen = []
    for guided, uncond in ((True, 1), (False, 0)):
        with torch.no_grad(), Z.on(sd1, tokens=prompt, guided=guided) as applied:
            seen.append(sd1.unet(sample, 1, encoder_hidden_states=text).sample)
            assert applied.reader.batch.uncond == uncond
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])


@pytest.mark.parametrize("guidance", [1.0, 7.5])
def test_a_pipeline_that_contradicts_its_rows_is_refused(sd1: Any, guidance: float) -> None:
    """As StableDiffusionPanoramaPipeline does, which always says that guidance is off."""
    stock = type(sd1).do_classifier_free_guidance
    asked = []

    class Wrong(type(sd1)):  # type: ignore[misc]
        @property
        def do_classifier_free_guidance(self) -> bool:
            # Its own call is told the truth, for encoding and for the batch; the reader is not.
            inside = sys._getframe(1).f_code.co_name == "__call__"
            asked.append(inside)
            return stock.fget(self) if inside else not stock.fget(self)

    wrong = Wrong(**sd1.components, requires_safety_checker=False)
    wrong.set_progress_bar_config(disable=True)
    state = "off" if guidance > 1 else "on"
    with pytest.raises(InterpError, match=f"says that guidance is {state}"), Z.on(wrong):
        run(wrong, guidance_scale=guidance)
    assert set(asked) == {True, False}


def test_merged_tokens_are_refused(sd1: Any) -> None:
    """As token merging does with merge_crossattn=True: a layer has fewer queries."""
    site = ip.sites(sd1.unet)[0]
    layer = sd1.unet.get_submodule(site.path)

    def merge(module: Any, args: Any, kwargs: Any) -> Any:
        return (args[0][:, :-3], *args[1:]), kwargs

    def unmerge(module: Any, args: Any, output: Any) -> Any:
        return torch.cat([output, output[:, -3:]], dim=1)

    before = layer.register_forward_pre_hook(merge, with_kwargs=True)
    after = layer.register_forward_hook(unmerge)
    try:
        with pytest.raises(InterpError, match="tokens were merged"), ip.record(sd1):
            run(sd1)
    finally:
        before.remove()
        after.remove()


def test_images_that_are_not_square(sd1: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sd1, "unet", denoiser()())
    sd1.unet.register_to_config(sample_size=(16, 8))
    session = ip.Session(sd1, steps=1)
    assert (session.height, session.width) == (32, 16)
    assert session.run(TEXT).image.shape == (1, 1, 32, 16, 3)


def test_prompts_of_several_windows(pipe: Any) -> None:
    """As compel and long-prompt pipelines make them; every window has its own categories."""
    long = ip.join(encode(pipe, TEXTS))
    empty = ip.join(encode(pipe, ["", ""]))
    counts = [prompt.counts for prompt in encode(pipe, TEXTS)]
    assert long.counts == {name: counts[0][name] + counts[1][name] for name in long.counts}
    parts = [Z.embeds(prompt) for prompt in encode(pipe, TEXTS)]
    expected = from_embeds(pipe, [torch.cat(parts)], [long], empty)
    plain = from_embeds(pipe, [long.embeds], [long], empty)
    assert (expected - plain).abs().max() > EFFECT
    with Z.on(pipe, tokens=long, negative=empty), ip.record(pipe, tokens=long) as log:
        assert torch.equal(from_embeds(pipe, [long.embeds], [long], empty), expected)
    assert log.dataset().tokens.values.tolist() == [list(long.counts.values())]
    bang = ip.join(encode(pipe, TEXTS, pad_token="!"))
    with ip.repad("!", uncond=False).on(pipe, tokens=long, negative=empty):
        ours = from_embeds(pipe, [long.embeds], [long], empty)
    assert torch.equal(ours, from_embeds(pipe, [bang.embeds], [long], empty))
    sd = ip.Session(pipe, steps=2, negative="")
    image = sd.run(long, patch=Z, images=True)
    latent = rearrange(sd.trace(long, patch=Z).final_latents.values[0, 0], "c h w -> 1 c h w")
    expected = from_embeds(pipe, [torch.cat(parts)], [long], empty, guidance_scale=7.5)
    assert torch.allclose(torch.as_tensor(latent), expected, atol=1e-4)
    assert image.text.values.tolist() == [" ".join(TEXTS)]
    with pytest.raises(InterpError, match="as many for all prompts"):
        sd.run([long, TEXTS[0]])
    with pytest.raises(InterpError, match="tokens=interp.encode.*interp.join"), Z.on(pipe):
        from_embeds(pipe, [long.embeds], [long], empty)
    with pytest.raises(InterpError, match="Cannot join 0 prompts"):
        ip.join([])


def test_arguments_of_the_pipelines_call_in_a_session(sdxl: Any) -> None:
    call = {"guidance_rescale": 0.7, "clip_skip": 1}
    sd = ip.Session(sdxl, steps=2, negative="", **call)
    assert torch.allclose(
        torch.as_tensor(sd.trace(TEXT).final_latents.values[0]),
        run(sdxl, negative_prompt="", guidance_scale=7.5, **call),
        atol=1e-5,
    )
    assert ip.provenance(sd.run(TEXT))["call"] == call
    assert sd.but(guidance=1.0).settings == {**sd.settings, "guidance": 1.0}
    for name, said in (
        ("prompt_embeds", "sd.run"),
        ("guidance_scale", "guidance="),
        ("no", "no such argument"),
    ):
        with pytest.raises(InterpError, match=f"{name}= was asked for.*{said}"):
            ip.Session(sdxl, **{name: 1})
