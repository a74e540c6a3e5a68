"""From trained parts to the files of `data/organism`: pipeline, CLIP pair, descriptor."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from . import descriptor, scenes, text, unet

TOKENIZER = Path(__file__).parents[2] / "data" / "tokenizer"


def pipeline(
    clip: CLIPModel,
    vae: AutoencoderKL,
    denoiser: UNet2DConditionModel,
    tokenizer: CLIPTokenizer,
    folder: Path,
) -> None:
    """Write a pipeline that `StableDiffusionPipeline.from_pretrained(folder)` opens, in float16.

    The configuration of the text encoder says float32, because transformers would otherwise load it
    as it was saved, and a CPU could not run it beside the float32 UNet that diffusers loads.
    """
    encoder = CLIPTextModel(clip.config.text_config)
    encoder.load_state_dict(clip.text_model.state_dict())
    parts = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=denoiser,
        scheduler=unet.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    parts.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    say_float32(folder / "text_encoder" / "config.json")


def clip_pair(clip: CLIPModel, folder: Path) -> None:
    """Write the CLIP pair with its tokenizer and what its images must look like."""
    clip.half().save_pretrained(folder, safe_serialization=True)
    say_float32(folder / "config.json")
    CLIPTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    side = {"height": scenes.SIZE, "width": scenes.SIZE}
    preprocessing = {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True, "size": side, "do_center_crop": False, "crop_size": side,
        "do_rescale": True, "rescale_factor": 1 / 255, "do_convert_rgb": True, "resample": 3,
        "do_normalize": True, "image_mean": text.PIXEL_MEAN, "image_std": text.PIXEL_STD,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2) + "\n")


def copy_detector(model: descriptor.Descriptor, folder: Path) -> None:
    """Write `descriptor.pt` (TorchScript) and its calibration beside it."""
    facts = asdict(descriptor.calibrate(model))
    descriptor.save(model, folder / "descriptor.pt")
    (folder / "descriptor.json").write_text(json.dumps(facts, indent=2) + "\n")


def say_float32(config: Path) -> None:
    settings = json.loads(config.read_text())
    settings["dtype"] = "float32"
    config.write_text(json.dumps(settings, indent=2) + "\n")


def clear(folder: Path) -> None:
    """Remove what an earlier build left, so that no stale file stays beside the new ones."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
