"""Patches by every route to a layer, and what the UNet predicts under them."""

from typing import Any

import torch
from torch import Tensor

import interp as ip
from interp import Patch, Prompt
from interp.denoiser.hooks import Hooks
from tests.runs import PROCESSORS, latents

# bfloat16 takes a CPU five times as long, so one kernel must do.
KERNELS = [*((kernel, torch.float32) for kernel in PROCESSORS), ("default", torch.bfloat16)]
LONG = "a rather long prompt about an antique church poster in the old city of Berlin"


def some_patch(kind: str, b: Prompt) -> Patch:
    """Patches by every route to a layer: embeddings, keys and values of heads, masks."""
    head = ip.swap("pad", b, "nearest", side="k", heads=0, layers="up")
    return {
        "none": Patch(),
        "embeddings": ip.zero("pad", 0.7) & ip.copy("eot", to="prompt"),
        "heads": head & ip.zero("eot", side="v"),
        "mask": ip.mask("pad", heads=0) & ip.scale("sot", 1.25) & ip.mask("eot", layers="down"),
    }[kind]


def predictions(pipe: Any, patch: Patch, texts: Any, images: int, **call: Any) -> Tensor:
    """What the UNet predicted for all rows in the first step."""
    seen: list[Tensor] = []
    with patch.on(pipe), Hooks() as hooks:
        hooks.after(pipe.unet, lambda module, args, kwargs, output: seen.append(output[0]))
        latents(pipe, texts, steps=1, num_images_per_prompt=images, **call)
    return seen[0]
