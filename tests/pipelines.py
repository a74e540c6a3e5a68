"""Random-weight pipelines shaped like SD 1, SD 2 and SDXL, small enough for a CPU.

They differ where the real ones differ: number of heads per layer, pad tokens, prediction type,
encoders. Their weights are larger than at initialisation, so that text matters and an error of one
embedding shows in the image.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

DATA = Path(__file__).parent.parent / "data"
TOKENIZERS = (DATA / "organism" / "eot" / "tokenizer", DATA / "tokenizer")
KINDS = ("sd1", "sd2", "sdxl")
WIDTH = 32


def tokenizer(pad_token: str = "<|endoftext|>") -> CLIPTokenizer:
    """CLIP's real tokenizer, with the pad token of one of its users."""
    folder = next(folder for folder in TOKENIZERS if folder.is_dir())
    return CLIPTokenizer.from_pretrained(folder, pad_token=pad_token)


def pipeline(kind: str, dtype: torch.dtype = torch.float32) -> Any:
    """A pipeline of the given kind, the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(KINDS.index(kind))
        pipe = {"sd1": _sd1, "sd2": _sd2, "sdxl": _sdxl}[kind]()
        for module in (pipe.unet, pipe.text_encoder):
            _enlarge(module)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype)


def _sd1() -> StableDiffusionPipeline:
    return _sd(unet(heads=(2, 2)), tokenizer(), "epsilon")


def _sd2() -> StableDiffusionPipeline:
    return _sd(unet(heads=(1, 4)), tokenizer("!"), "v_prediction")


def _sdxl() -> StableDiffusionXLPipeline:
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2),
    }
    return StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(_text()).eval(),
        text_encoder_2=CLIPTextModelWithProjection(_text()).eval(),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer("!"),
        unet=unet(heads=(2, 4), text=2 * WIDTH, **added),
        scheduler=_scheduler("epsilon"),
        add_watermarker=False,
    )


def _sd(model: Any, tokenizer: CLIPTokenizer, prediction: str) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(_text()).eval(),
        tokenizer=tokenizer,
        unet=model,
        scheduler=_scheduler(prediction),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def unet(
    heads: int | tuple[int, int], text: int | tuple[int, int] = WIDTH, layers: int = 1, **more: Any
) -> UNet2DConditionModel:
    """Two levels, both with attention, as many heads as given."""
    model = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=layers,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=8,
        cross_attention_dim=text,
        attention_head_dim=heads,
        **more,
    )
    return model.eval()


def vae(levels: int = 2) -> AutoencoderKL:
    """A small autoencoder whose latents have `2**(levels - 1)` pixels to an element."""
    model = AutoencoderKL(
        block_out_channels=(8,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
    )
    return model.eval()


def _text() -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=WIDTH,
        vocab_size=49408,
        eos_token_id=49407,
        bos_token_id=49406,
    )


def _scheduler(prediction: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
    )


def _enlarge(module: torch.nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if ".attn2.to_" in name and "to_out" not in name:
            parameter.data *= 3
        if "embedding" in name:
            parameter.data *= 30
