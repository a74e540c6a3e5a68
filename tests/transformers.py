"""Random-weight pipelines shaped like SD 3.5, FLUX (dev and schnell) and PixArt-alpha.

T5's tokenizer is trained here, in a moment: a unigram model with `</s>` and `<pad>`, as T5's is.
"""

from functools import cache
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

import interp as ip
from tests.pipelines import WIDTH, _text, tokenizer

KINDS = ("sd3", "dev", "schnell", "pixart")
PIPELINES = ("StableDiffusion3Pipeline", "FluxPipeline", "PixArtAlphaPipeline")
"""What these are, all of which are patched and recorded exactly, and run by sessions."""
T5_WIDTH = 2 * WIDTH
LENGTH = 40
"""Positions of T5 in the tests, which leaves some pads."""
TEXTS = ["Antique Church Poster in Berlin", "a photo of a goat", "hello, world! a test of two"]


@cache
def t5_tokenizer() -> PreTrainedTokenizerFast:
    """A unigram tokenizer with T5's special tokens."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90,
        special_tokens=["<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz!,"),
        show_progress=False,
    )
    inner.train_from_iterator([*TEXTS * 20, *" ".join(TEXTS).split() * 50], trainer)
    inner.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=512,
    )


def transformer_pipeline(kind: str) -> Any:
    """A pipeline of the given kind, the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(KINDS.index(kind))
        pipe = {"sd3": _sd3, "dev": _flux, "schnell": _flux, "pixart": _pixart}[kind](kind)
        for name, parameter in pipe.transformer.named_parameters():
            if any(part in name for part in ("to_q", "to_k", "add_q", "add_k", "context_embedder")):
                parameter.data *= 3
            if "norm1" in name and "weight" in name:
                parameter.data *= 3  # gates, so that blocks do something
    pipe.set_progress_bar_config(disable=True)
    return pipe


def call(pipe: Any, *prompts: str, steps: int = 2, **more: Any) -> torch.Tensor:
    """Final latents of plain calls, from seeded noise."""
    known: dict[str, Any] = {"max_sequence_length": LENGTH}
    if isinstance(pipe, PixArtAlphaPipeline):
        known |= {"use_resolution_binning": False, "clean_caption": False}
    if prompts:
        known["prompt"] = list(prompts)
    known |= {"num_inference_steps": steps, "height": 32, "width": 32, "output_type": "latent"}
    generator = torch.Generator().manual_seed(0)
    return pipe(**{**known, "generator": generator, **more}).images


@cache
def shared(kind: str) -> Any:
    """The same, made once; tests leave it as it was."""
    pipe = transformer_pipeline(kind)
    call(pipe, TEXTS[0], steps=1)  # transformers hooks an encoder for good at its first call
    return pipe


def session(pipe: Any, steps: int = 2, **settings: Any) -> ip.Session:
    """A session of small images, called as `call` calls the pipeline."""
    known = {"height": 32, "width": 32, "guidance": 3.0, "max_sequence_length": LENGTH}
    return ip.Session(pipe, steps, **{**known, **settings})


def prompts(pipe: Any) -> list[ip.Prompt]:
    """The texts, encoded."""
    return ip.encode(pipe, TEXTS, max_sequence_length=LENGTH)


def given(pipe: Any, prompt: ip.Prompt, embeds: torch.Tensor, **more: Any) -> torch.Tensor:
    """Latents of a plain call with such embeddings of the prompt."""
    known: dict[str, Any] = {"prompt_embeds": embeds[None]}
    if prompt.pooled is not None:
        known["pooled_prompt_embeds"] = prompt.pooled[None]
    if "PixArt" in type(pipe).__name__:
        (empty,) = ip.encode(pipe, "", max_sequence_length=LENGTH)
        known |= {
            "negative_prompt": None,
            "prompt_attention_mask": (prompt.category < 3).long()[None],
            "negative_prompt_embeds": empty.embeds[None],
            "negative_prompt_attention_mask": (empty.category < 3).long()[None],
        }
    if "3" in type(pipe).__name__:
        (empty,) = ip.encode(pipe, "", max_sequence_length=LENGTH)
        known |= {
            "negative_prompt_embeds": empty.embeds[None],
            "negative_pooled_prompt_embeds": empty.pooled[None],
        }
    return call(pipe, **{**known, **more})


def _t5() -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=T5_WIDTH, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    return T5EncoderModel(config).eval()


def _vae(channels: int) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=channels,
        shift_factor=0.0,
    ).eval()


def _sd3(kind: str) -> StableDiffusion3Pipeline:
    model = SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        transformer=model.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(4),
        text_encoder=CLIPTextModelWithProjection(_text()).eval(),
        tokenizer=tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(_text()).eval(),
        tokenizer_2=tokenizer("!"),
        text_encoder_3=_t5(),
        tokenizer_3=t5_tokenizer(),
    )


def _flux(kind: str) -> FluxPipeline:
    model = FluxTransformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=kind == "dev",
        axes_dims_rope=(2, 2, 4),
    )
    return FluxPipeline(
        transformer=model.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=_vae(4),
        text_encoder=CLIPTextModel(_text()).eval(),
        tokenizer=tokenizer(),
        text_encoder_2=_t5(),
        tokenizer_2=t5_tokenizer(),
    )


def _pixart(kind: str) -> PixArtAlphaPipeline:
    model = PixArtTransformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        cross_attention_dim=32,
        caption_channels=T5_WIDTH,
        norm_num_groups=8,
    )
    return PixArtAlphaPipeline(
        transformer=model.eval(),
        scheduler=DDIMScheduler(clip_sample=False),
        vae=_vae(4),
        text_encoder=_t5(),
        tokenizer=t5_tokenizer(),
    )
