"""Pipelines of known architectures with random weights, for timing: what they draw is noise."""

from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

TOKENIZER = Path(__file__).resolve().parents[1] / "data" / "tokenizer"


class Size(StrEnum):
    """The architectures that can be timed."""

    embedded = "embedded"
    sd14 = "sd14"


UNETS: dict[Size, dict[str, Any]] = {
    Size.embedded: {
        "sample_size": 16,
        "in_channels": 8,
        "out_channels": 8,
        "block_out_channels": (32, 96, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "cross_attention_dim": 128,
        "norm_num_groups": 16,
    },
    # Everything else is UNet2DConditionModel's default, which is SD 1's.
    Size.sd14: {"sample_size": 64, "cross_attention_dim": 768},
}


def build(size: Size) -> StableDiffusionPipeline:
    """Return a pipeline of that architecture with random weights."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNETS[size]).eval()
    width = unet.config.cross_attention_dim
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        projection_dim=width,
        intermediate_size=4 * width,
        num_attention_heads=width // 64,
        num_hidden_layers=12 if size is Size.sd14 else 4,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    # Latents are never decoded: the smallest VAE of the right scale will do.
    levels = 4 if size is Size.sd14 else 3
    vae = AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=unet.config.in_channels,
        norm_num_groups=4,
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
        unet=unet,
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
