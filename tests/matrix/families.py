"""Pipelines of diffusers that read text: small, with random weights, and how each is called.

What differs from text-to-image is as in the published models of a family: channels of the UNet,
class embeddings, further encoders.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import diffusers
import torch
from diffusers.pipelines.stable_diffusion import StableUnCLIPImageNormalizer
from PIL import Image
from transformers import CLIPTextModelWithProjection

from tests.patch.test_denoisers import controlled
from tests.pipelines import WIDTH, pipeline, unet

TEXT = "a red cat on a mat"
SIDE = 32


@dataclass(frozen=True)
class Family:
    """A kind of pipeline.

    Attributes:
        make: makes one.
        call: the arguments of its call, beside those that all have.
        session: whether a `Session` runs it.
        refused: why it is not patched, a part of the error; None where it is exact.
        unrecorded: why it is not recorded; None where it is exact.
    """

    make: Callable[[], Any]
    call: Callable[[], dict[str, Any]] = lambda: {}
    session: bool = False
    refused: str | None = None
    unrecorded: str | None = None


def of(name: str, base: str = "sd1", **parts: Callable[[], Any]) -> Callable[[], Any]:
    """Makes a pipeline of that class from the parts of a text-to-image pipeline, and others."""

    def make() -> Any:
        kind = getattr(diffusers, name)
        known = pipeline(base).components | {part: made() for part, made in parts.items()}
        asked = inspect.signature(kind.__init__).parameters
        given = {part: known.get(part) for part in kind._get_signature_keys(kind)[0]}
        if "requires_safety_checker" in asked:
            given["requires_safety_checker"] = False
        if "add_watermarker" in asked:
            given["add_watermarker"] = False
        if given.get("text_encoder", known) is None:
            given["requires_aesthetics_score"] = True
        return kind(**given)

    return make


def denoiser(heads: Any = (2, 2), **more: Any) -> Callable[[], Any]:
    """Makes a UNet like the others', with these differences."""

    def make() -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            return unet(heads=heads, **more)

    return make


def picture(side: int = SIDE) -> Image.Image:
    colours = torch.linspace(0, 255, side * side * 3).reshape(side, side, 3)
    return Image.fromarray(colours.to(torch.uint8).numpy())


def mask() -> Image.Image:
    half = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    half[:, : SIDE // 2] = 255
    return Image.fromarray(half.numpy())


def image(**more: Any) -> dict[str, Any]:
    return {"image": picture(), "strength": 1.0, **more}


def hole(**more: Any) -> dict[str, Any]:
    return {"image": picture(), "mask_image": mask(), "strength": 1.0, **more}


def sized_hole() -> dict[str, Any]:
    return hole(height=SIDE, width=SIDE)


def control() -> dict[str, Any]:
    return {"image": torch.full((1, 3, SIDE, SIDE), 0.2)}


def motion() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        return diffusers.MotionAdapter(
            block_out_channels=(16, 32),
            motion_layers_per_block=1,
            motion_mid_block_layers_per_block=1,
            motion_norm_num_groups=8,
            motion_num_attention_heads=2,
        )


def adapted() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        return diffusers.T2IAdapter(
            channels=(16, 32), num_res_blocks=1, downscale_factor=2, in_channels=3
        )


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def unclip() -> Any:
    """Stable unCLIP, with a prior that makes an image embedding of the text."""
    parts = pipeline("sd1").components
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        prior = diffusers.PriorTransformer(2, 12, num_layers=1, embedding_dim=WIDTH)
        reader = CLIPTextModelWithProjection(parts["text_encoder"].config)
    known = ("tokenizer", "text_encoder", "scheduler", "vae")
    schedule = {"beta_schedule": "squaredcos_cap_v2"}
    return diffusers.StableUnCLIPPipeline(
        prior_tokenizer=parts["tokenizer"],
        prior_text_encoder=reader.eval(),
        prior=prior.eval(),
        prior_scheduler=diffusers.UnCLIPScheduler(prediction_type="sample", **schedule),
        image_normalizer=StableUnCLIPImageNormalizer(embedding_dim=WIDTH),
        image_noising_scheduler=diffusers.DDPMScheduler(**schedule),
        unet=denoiser(
            class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH
        )(),
        **{name: parts[name] for name in known},
    )


def cross_net() -> Any:
    """ControlNet-XS, whose UNet and adapter become one UNet."""
    base = denoiser(layers=2)()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(10)
        net = diffusers.ControlNetXSAdapter.from_unet(
            base, size_ratio=1.0, conditioning_embedding_out_channels=(16, 32)
        )
        for block in net.modules():
            if isinstance(block, torch.nn.Conv2d) and not block.weight.any():
                torch.nn.init.normal_(block.weight, std=0.1)
    made = of("StableDiffusionControlNetXSPipeline", unet=lambda: base, controlnet=lambda: net)
    return made()


THREE = "3 rows of a"
FAMILIES: dict[str, Family] = {
    "StableDiffusionPipeline": Family(of("StableDiffusionPipeline"), session=True),
    "StableDiffusionPipeline, SD 2": Family(partial(pipeline, "sd2"), session=True),
    "StableDiffusionImg2ImgPipeline": Family(of("StableDiffusionImg2ImgPipeline"), image),
    "StableDiffusionInpaintPipeline": Family(of("StableDiffusionInpaintPipeline"), sized_hole),
    "StableDiffusionInpaintPipeline, 9 channels": Family(
        of("StableDiffusionInpaintPipeline", unet=denoiser(in_channels=9)), sized_hole
    ),
    "StableDiffusionDepth2ImgPipeline": Family(
        of("StableDiffusionDepth2ImgPipeline", unet=denoiser(in_channels=5)),
        lambda: image(
            depth_map=torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        ),
    ),
    "StableDiffusionUpscalePipeline": Family(
        of(
            "StableDiffusionUpscalePipeline",
            unet=denoiser(in_channels=7, num_class_embeds=1000),
            low_res_scheduler=diffusers.DDPMScheduler,
        ),
        lambda: {"image": picture(16)},
    ),
    "StableDiffusionControlNetPipeline": Family(partial(controlled, "sd1"), control),
    "StableDiffusionXLControlNetPipeline": Family(partial(controlled, "sdxl"), control),
    "StableDiffusionControlNetXSPipeline": Family(cross_net, control),
    "StableDiffusionAdapterPipeline": Family(
        of("StableDiffusionAdapterPipeline", adapter=adapted), control
    ),
    "StableDiffusionGLIGENPipeline": Family(
        of("StableDiffusionGLIGENPipeline", unet=denoiser(attention_type="gated")),
        lambda: {"gligen_phrases": ["a cat"], "gligen_boxes": [[0.1, 0.1, 0.5, 0.5]]},
    ),
    "StableUnCLIPPipeline": Family(unclip, lambda: {"prior_num_inference_steps": 2}),
    "StableDiffusionInpaintPipelineLegacy": Family(
        of("StableDiffusionInpaintPipelineLegacy"), hole
    ),
    "StableDiffusionDiffEditPipeline": Family(
        of("StableDiffusionDiffEditPipeline", inverse_scheduler=diffusers.DDIMInverseScheduler),
        lambda: {
            "mask_image": torch.ones(1, 16, 16),
            "image_latents": noise(1, 2, 4, 16, 16),
            "inpaint_strength": 1.0,
        },
    ),
    "StableDiffusionSAGPipeline": Family(
        of("StableDiffusionSAGPipeline", unet=denoiser(heads=2)),
        refused="of a StableDiffusionSAGPipeline's",
        unrecorded="of a StableDiffusionSAGPipeline's",
    ),
    "StableDiffusionAttendAndExcitePipeline": Family(
        of("StableDiffusionAttendAndExcitePipeline"),
        lambda: {
            "token_indices": [3],
            "max_iter_to_alter": 1,
            "attn_res": (16, 16),
            "thresholds": {},
        },
    ),
    "SemanticStableDiffusionPipeline": Family(of("SemanticStableDiffusionPipeline")),
    "SemanticStableDiffusionPipeline, one concept": Family(
        of("SemanticStableDiffusionPipeline"),
        lambda: {"editing_prompt": ["glasses"]},
        refused=THREE,
        unrecorded=THREE,
    ),
    "StableDiffusionPipelineSafe": Family(
        of("StableDiffusionPipelineSafe"), refused=THREE, unrecorded=THREE
    ),
    "CycleDiffusionPipeline": Family(
        of("CycleDiffusionPipeline"),
        lambda: image(source_prompt="a dog"),
        refused="4 rows of a",
        unrecorded="4 rows of a",
    ),
    "StableDiffusionModelEditingPipeline": Family(of("StableDiffusionModelEditingPipeline")),
    "TextToVideoZeroPipeline": Family(
        of("TextToVideoZeroPipeline"), lambda: {"video_length": 2, "t0": 0, "t1": 1}
    ),
    "AnimateDiffPipeline": Family(
        of("AnimateDiffPipeline", motion_adapter=motion), lambda: {"num_frames": 2}
    ),
    "LatentConsistencyModelPipeline": Family(
        of(
            "LatentConsistencyModelPipeline",
            unet=denoiser(time_cond_proj_dim=8),
            scheduler=diffusers.LCMScheduler,
        )
    ),
    "LatentConsistencyModelImg2ImgPipeline": Family(
        of(
            "LatentConsistencyModelImg2ImgPipeline",
            unet=denoiser(time_cond_proj_dim=8),
            scheduler=diffusers.LCMScheduler,
        ),
        image,
    ),
    "StableDiffusionXLPipeline": Family(partial(pipeline, "sdxl"), session=True),
    "StableDiffusionXLImg2ImgPipeline": Family(
        of("StableDiffusionXLImg2ImgPipeline", "sdxl"), image
    ),
    "StableDiffusionXLImg2ImgPipeline, refiner": Family(
        of(
            "StableDiffusionXLImg2ImgPipeline",
            "sdxl",
            text_encoder=lambda: None,
            tokenizer=lambda: None,
            unet=denoiser(
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=5 * 8 + WIDTH,
            ),
        ),
        image,
    ),
    "StableDiffusionXLInpaintPipeline": Family(
        of("StableDiffusionXLInpaintPipeline", "sdxl"), sized_hole
    ),
}
BY_NAME = (
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionXLInstructPix2PixPipeline",
    "StableDiffusionPAGPipeline",
    "StableDiffusionXLPAGPipeline",
    "StableDiffusionPanoramaPipeline",
    "StableDiffusionParadigmsPipeline",
    "LEditsPPPipelineStableDiffusion",
    "LEditsPPPipelineStableDiffusionXL",
)
"""Pipelines that are refused by their class, before they run."""
