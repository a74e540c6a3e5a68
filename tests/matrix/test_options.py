"""Whatever a pipeline is called with, its text is patched and recorded exactly."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback
from peft import LoraConfig

import interp as ip
from tests.changing import load_ip_adapter
from tests.matrix.families import SIDE, TEXT
from tests.matrix.oracle import EFFECT, Z, attention_to_pads, encoders_edited, run
from tests.pipelines import WIDTH, pipeline

Prepared = Callable[[Any], dict[str, Any]]


def lora(pipe: Any) -> dict[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = {"r": 4, "lora_alpha": 64, "init_lora_weights": False}
        pipe.unet.add_adapter(LoraConfig(target_modules=["to_k", "to_v"], **config), "one")
        pipe.text_encoder.add_adapter(LoraConfig(target_modules=["q_proj"], **config), "one")
    return {}


def fused(pipe: Any) -> dict[str, Any]:
    lora(pipe)
    pipe.fuse_lora(["unet"])
    return {}


def removed(pipe: Any) -> dict[str, Any]:
    lora(pipe)
    pipe.unload_lora_weights()
    return {}


def inverted(pipe: Any) -> dict[str, Any]:
    """A textual inversion of two vectors stands for two tokens."""
    vectors = torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(2))
    pipe.load_textual_inversion({"<cat>": 30 * vectors}, token="<cat>")
    return {"prompt": "a red <cat> on a mat"}


def adapted(pipe: Any) -> dict[str, Any]:
    load_ip_adapter(pipe)
    return {"ip_adapter_image_embeds": [torch.ones(2, 1, 8)]}


def sliced(pipe: Any) -> dict[str, Any]:
    pipe.enable_attention_slicing(1)
    return {}


def calls(**call: Any) -> Prepared:
    return lambda pipe: call


def after(act: Callable[[Any], Any]) -> Prepared:
    """A pipeline to which something was done, called as usual."""

    def prepare(pipe: Any) -> dict[str, Any]:
        act(pipe)
        return {}

    return prepare


def cut(pipe: Any) -> dict[str, Any]:
    """Guidance ends after the first step."""
    callback = SDCFGCutoffCallback(cutoff_step_ratio=0.0, cutoff_step_index=None)
    return {"callback_on_step_end": callback}


NOISE = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
SAME = "negative_prompt equal to the prompt"
OPTIONS: dict[str, Prepared] = {
    "negative_prompt": calls(negative_prompt="ugly"),
    SAME: calls(negative_prompt=TEXT),
    "num_images_per_prompt": calls(num_images_per_prompt=3),
    "guidance_scale=1": calls(guidance_scale=1.0),
    "guidance_rescale": calls(guidance_rescale=0.7),
    "eta": calls(eta=0.5),
    "height and width": calls(height=2 * SIDE, width=SIDE),
    "latents": calls(latents=NOISE),
    "guidance that ends": cut,
    "clip_skip (SDXL)": calls(clip_skip=1),
    "LoRA": lora,
    "LoRA (scaled)": lambda pipe: {**lora(pipe), "cross_attention_kwargs": {"scale": 0.3}},
    "LoRA (fused)": fused,
    "LoRA (unloaded)": removed,
    "textual inversion": inverted,
    "IP-Adapter": adapted,
    "attention slicing": sliced,
    "fused projections": after(lambda pipe: pipe.unet.fuse_qkv_projections()),
    "VAE slicing": after(lambda pipe: pipe.vae.enable_slicing()),
    "FreeU": after(lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)),
    "channels last": after(lambda pipe: pipe.unet.to(memory_format=torch.channels_last)),
    "bfloat16": after(lambda pipe: pipe.to(torch.bfloat16)),
}


@pytest.mark.parametrize("option", OPTIONS)
def test_options_of_a_call(option: str) -> None:
    pipe = pipeline("sdxl" if "SDXL" in option else "sd1")
    call = OPTIONS[option](pipe)
    text = pipe.maybe_convert_prompt(call.get("prompt", TEXT), pipe.tokenizer)
    plain = run(pipe, **call)
    with encoders_edited(pipe, text):
        right = run(pipe, **call)
    assert (right - plain).abs().max() > EFFECT
    patch = ip.zero("pad", fraction=0.7, uncond=True) if option == SAME else Z
    with patch.on(pipe):
        assert torch.equal(run(pipe, **call), right)
    with attention_to_pads(pipe, text) as seen, ip.record(pipe) as log:
        assert torch.equal(run(pipe, **call), plain)
    mass = log.dataset().mass.isel(prompt=0).sel(category="pad")
    for layer, rows in seen.items():
        ours = torch.as_tensor(mass.sel(layer=layer).values).flatten()
        ours, theirs = ours[~ours.isnan()].sort().values, torch.cat(rows).flatten().sort().values
        # Where the negative prompt is the text too, its rows are seen beside the prompt's.
        assert torch.allclose(ours, theirs[:: len(theirs) // len(ours)], atol=1e-6)
