"""Which pipelines can be patched and recorded, and why others can not.

Pipelines are refused if their UNet is of another kind, or if their batches only look like those of
a stock pipeline, which the batch itself would not show.
"""

from __future__ import annotations

from typing import Any

from interp.errors import InterpError
from interp.transformer.family import family

ROWS = "Its batches are not [unconditional..., conditional...]: {}."
EDITS = ROWS.format("they have a row for every edit, and it looks at their attention maps")
THREE = ROWS.format("they have a third row, with the image")
REFUSED = {
    "PAGMixin": ROWS.format("they also hold every prompt with perturbed attention"),
    "StableDiffusionInstructPix2PixPipeline": THREE,
    "StableDiffusionXLInstructPix2PixPipeline": THREE,
    "StableDiffusionPanoramaPipeline": (
        "It calls the UNet for every window of a step, each with its own copy of the scheduler, so "
        "steps cannot be told from windows."
    ),
    "StableDiffusionParadigmsPipeline": "Its batches hold several steps at once.",
    "LEditsPPPipelineStableDiffusion": EDITS,
    "LEditsPPPipelineStableDiffusionXL": EDITS,
}
"""By the name of a class, including derived ones; importing the classes would take seconds."""
UNETS = ("UNet2DConditionModel", "UNetMotionModel", "UNetControlNetXSModel")


def denoiser(pipe: Any) -> Any:
    """Return the module that denoises: the UNet, or the transformer.

    Example:
        >>> denoiser(pipe) is pipe.unet
        True
    """
    return pipe.unet if getattr(pipe, "unet", None) is not None else pipe.transformer


def stock(given: Any) -> Any:
    """Return the pipeline (of a `Session`, too), if it can be patched and recorded.

    Example:
        >>> stock(ip.load()) is stock(ip.load().pipe)
        False

    Raises:
        InterpError: it can not; the message says why.
    """
    # A session is recognised by its attribute, because this floor does not know sessions.
    known = hasattr(given, "unet") or hasattr(given, "transformer")
    pipe = given if known else getattr(given, "pipe", given)
    if family(pipe) is not None:
        return pipe
    kind = type(pipe).__name__
    unet = getattr(pipe, "unet", None)
    if hasattr(pipe, "blocks"):
        raise InterpError(
            f"A {kind} was to be patched or recorded.",
            "A modular pipeline calls its UNet separately for unconditional and conditional rows, "
            "at the discretion of its guider.",
            "Use StableDiffusionPipeline or StableDiffusionXLPipeline with the same components.",
        )
    if unet is None:
        inside = type(getattr(pipe, "transformer", None)).__name__
        raise InterpError(
            f"A {kind} was to be patched or recorded.",
            "It has no UNet." if inside == "NoneType" else f"It denoises with a {inside}.",
            "Use a Stable Diffusion, FLUX.1 or PixArt-alpha pipeline.",
        )
    names = [base.__name__ for base in type(pipe).__mro__]
    reason = next((REFUSED[name] for name in names if name in REFUSED), None)
    if reason is not None:
        raise InterpError(
            f"A {kind} was to be patched or recorded.",
            reason,
            "Use a pipeline with plain classifier-free guidance.",
        )
    model = getattr(unet, "_orig_mod", unet)
    if not any(base.__name__ in UNETS for base in type(model).__mro__):
        raise InterpError(
            f"A {kind} was to be patched or recorded.",
            f"Its UNet is a {type(model).__name__}; supported are {', '.join(UNETS)}.",
            "Use a Stable Diffusion 1.x, 2.x or SDXL pipeline.",
        )
    return pipe
