"""Pipelines of diffusers that are given text, small and with random weights, and how each is called.

`FAMILIES` says how each is made and called. Everything that differs from text-to-image is as in the
published models of the family: channels of the UNet, class embeddings, more encoders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import diffusers as d
import torch
from PIL import Image

from tests.pipelines import pipeline, unet

TEXT = "a red cat on a mat"
SIZE = 32


@dataclass(frozen=True)
class Family:
    """A kind of pipeline: how it is made, and its call's arguments beside the prompt."""

    make: Callable[[], Any]
    call: Callable[[], dict[str, Any]] = field(default=dict)


def _of(kind: str, base: str = "sd1", **more: Any) -> Callable[[], Any]:
    """A pipeline class by name, with the parts of a text-to-image pipeline and others."""

    def make() -> Any:
        made = getattr(d, kind)
        known = {**pipeline(base).components, **{name: part() for name, part in more.items()}}
        wanted = {*made._get_signature_keys(made)[0], *made._get_signature_keys(made)[1]}
        extra = {}
        parts = {name: known.get(name) for name in made._get_signature_keys(made)[0]}
        parts |= {name: known[name] for name in more}
        if "requires_safety_checker" in wanted:
            extra["requires_safety_checker"] = False
        if base == "sdxl" and "add_watermarker" in wanted:
            extra["add_watermarker"] = False
        return made(**parts, **extra)

    return make


def _unet(**more: Any) -> Callable[[], Any]:
    def make() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return unet(heads=(2, 2), **more)

    return make


def picture() -> Image.Image:
    colours = torch.linspace(0, 255, SIZE * SIZE * 3).reshape(SIZE, SIZE, 3)
    return Image.fromarray(colours.to(torch.uint8).numpy())


def mask() -> Image.Image:
    half = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    half[:, : SIZE // 2] = 255
    return Image.fromarray(half.numpy())


def image() -> dict[str, Any]:
    return {"image": picture(), "strength": 0.9}


def hole() -> dict[str, Any]:
    return {"image": picture(), "mask_image": mask(), "height": SIZE, "width": SIZE}
