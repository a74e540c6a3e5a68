"""Which modules of a pipeline receive the text's embeddings, and so must be patched.

A ControlNet reads the text like the UNet. If another module does too, patching only the UNet would
leave the prompt in the image, so such pipelines are refused.
"""

from __future__ import annotations

from typing import Any

from diffusers.models import ControlNetModel, ControlNetUnionModel, MultiControlNetModel
from diffusers.models.attention_processor import Attention
from diffusers.models.controlnets.controlnet_xs import ControlNetXSAdapter
from diffusers.models.controlnets.multicontrolnet_union import MultiControlNetUnionModel
from torch import nn

from interp.errors import InterpError
from interp.transformer.family import family

CONTROLNETS = (ControlNetModel, ControlNetUnionModel)
SEVERAL = (MultiControlNetModel, MultiControlNetUnionModel)


def denoisers(pipe: Any) -> list[nn.Module]:
    """The UNet and its ControlNets.

    Example:
        >>> [type(module).__name__ for module in denoisers(pipe)]     # and ControlNets
        ['UNet2DConditionModel']

    Raises:
        InterpError: another part of the pipeline attends to the text, or the UNet also reads it
            other than by attention.
    """
    if family(pipe) is not None:
        return [pipe.transformer]
    embedded = getattr(getattr(pipe.unet, "config", None), "addition_embed_type", None)
    if embedded in ("text", "text_image"):
        raise InterpError(
            f"Cannot patch a {type(pipe).__name__}.",
            f"Its UNet also adds the text to the time embedding ({embedded!r}), where patches do "
            "not reach it.",
            "Use a Stable Diffusion 1.x, 2.x or SDXL pipeline.",
        )
    found = [pipe.unet]
    for name, part in getattr(pipe, "components", {}).items():
        # ControlNet-XS is part of its UNet; the adapter is only what it was made from.
        if not isinstance(part, nn.Module) or isinstance(part, ControlNetXSAdapter):
            continue
        if part is pipe.unet:
            continue
        if isinstance(part, (*CONTROLNETS, *SEVERAL)):
            found += list(part.nets) if isinstance(part, SEVERAL) else [part]
        elif any(isinstance(m, Attention) and m.is_cross_attention for m in part.modules()):
            raise InterpError(
                f"Cannot patch a {type(pipe).__name__}.",
                f"Its {name}, a {type(part).__name__}, may attend to the text too, but only UNets "
                "and ControlNets can be patched.",
                "Use a pipeline without it.",
            )
    return found
