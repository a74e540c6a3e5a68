"""Ways to make another model of a pipeline in memory, and what says so in a refusal."""

from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from peft import LoraConfig

from tests.pipelines import unet


def adapted(pipe: Any, name: str = "x") -> None:
    """The same adapter every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = LoraConfig(r=4, lora_alpha=64, target_modules=["to_k"], init_lora_weights=False)
        pipe.unet.add_adapter(config, name)


def scaled(pipe: Any) -> None:
    adapted(pipe)
    pipe.unet.set_adapters("x", 0.5)


def fused(pipe: Any) -> None:
    adapted(pipe)
    pipe.unet.fuse_lora()


def with_images(pipe: Any, scale: float = 0.5) -> None:
    """The processors of an IP-Adapter, which has no weights of its own elsewhere."""
    processors = pipe.unet.attn_processors
    for path in processors:
        if "attn2" in path:
            layer = pipe.unet.get_submodule(path.removesuffix(".processor"))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(3)
                processors[path] = IPAdapterAttnProcessor2_0(
                    layer.to_q.out_features, layer.cross_attention_dim, num_tokens=(4,), scale=scale
                )
    pipe.unet.set_attn_processor(processors)


def replaced(pipe: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        pipe.unet = unet(heads=(2, 2))


def other_heads(pipe: Any) -> None:
    """The same weights, read otherwise."""
    other = unet(heads=(4, 4))
    other.load_state_dict(pipe.unet.state_dict())
    pipe.unet = other


def edited(pipe: Any) -> None:
    with torch.no_grad():
        pipe.unet.conv_in.weight[0, 0, 0, 0] += 1


def edited_behind_its_back(pipe: Any) -> None:
    """Autograd does not count it."""
    pipe.unet.conv_in.weight.data[0, 0, 0, 0] += 1


def text_encoder(pipe: Any) -> None:
    pipe.text_encoder.get_input_embeddings().weight.data[320] += 1


def vae(pipe: Any) -> None:
    pipe.vae.post_quant_conv.bias.data += 1


def vae_scale(pipe: Any) -> None:
    pipe.vae.register_to_config(scaling_factor=0.5)


def other_scheduler(pipe: Any) -> None:
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)


def schedule(pipe: Any) -> None:
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, beta_end=0.02)


def inverted(pipe: Any) -> None:
    """A token of textual inversion."""
    pipe.load_textual_inversion({"<goat>": torch.ones(pipe.text_encoder.config.hidden_size)})


def pad(pipe: Any) -> None:
    pipe.tokenizer.pad_token = "!"


#: What is done to a pipeline, and how a refusal begins.
CHANGES = [
    (adapted, "model.adapters.unet.x"),
    (scaled, "model.adapters.unet.x"),
    (fused, "model.parts.unet"),
    (with_images, "model.adapters.unet.ip_adapter"),
    (replaced, "model.parts.unet"),
    (other_heads, "model.parts.unet"),
    (edited, "model.parts.unet"),
    (edited_behind_its_back, "model.parts.unet"),
    (text_encoder, "model.parts.text_encoder"),
    (vae, "model.parts.vae"),
    (vae_scale, "model.parts.vae"),
    (other_scheduler, "scheduler.class"),
    (schedule, "scheduler.beta_end"),
    (inverted, "model.parts.text_encoder"),
    (pad, "model.parts.tokenizer"),
]
IDS = [change.__name__ for change, _ in CHANGES]


def load_ip_adapter(pipe: Any) -> None:
    """An IP-Adapter with random weights, for image embeddings of 8 channels."""
    width, keys = pipe.unet.config.cross_attention_dim, {}
    draw = torch.Generator().manual_seed(0)
    for number, (name, _) in enumerate(pipe.unet.attn_processors.items()):
        if name.endswith("attn2.processor"):
            layer = pipe.unet.get_submodule(name.removesuffix(".processor"))
            for side in "kv":
                weight = torch.randn(layer.inner_kv_dim, width, generator=draw)
                keys[f"{number}.to_{side}_ip.weight"] = weight
    projection = {
        "proj.weight": torch.randn(4 * width, 8, generator=draw),
        "proj.bias": torch.zeros(4 * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    adapter = {"image_proj": projection, "ip_adapter": keys}
    pipe.unet._load_ip_adapter_weights([adapter], low_cpu_mem_usage=False)
