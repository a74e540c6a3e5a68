"""How many images fit into memory at once.

An estimate from the pipeline's shapes, not a measurement: it only has to keep a batch from
exhausting the machine. The budget is the batch's activations; weights come on top.
"""

from typing import Any

import torch

from interp.denoiser.pipelines import denoiser
from interp.errors import InterpError
from interp.transformer.family import CLIP, family

GIB = 2**30
#: Activations alive at once in a UNet forward, in units of one full-resolution feature map of its
#: first block: the skip connections, one feed-forward of 8 times the width, and its input. As many
#: for a transformer: queries, keys and values, and a feed-forward of 4 times the width.
MAPS_PER_ROW = 24


def bytes_per_image(pipe: Any, height: int, width: int, guided: bool) -> int:
    """Return the estimated activation memory of one image in a batch.

    Example:
        >>> bytes_per_image(pipe, 512, 512, guided=True) / 2**20      # SD 1.4, float32
        240.0
    """
    scale, model = pipe.vae_scale_factor, denoiser(pipe)
    element, places = torch.finfo(model.dtype).bits // 8, (height // scale) * (width // scale)
    known = family(pipe)
    if known is None:
        feature_map = model.config.block_out_channels[0] * places
    else:
        channels = model.config.num_attention_heads * model.config.attention_head_dim
        positions = sum(77 if segment.name == CLIP else known.length for segment in known.segments)
        feature_map = channels * (places // 4 + positions)
    return MAPS_PER_ROW * feature_map * element * (2 if guided else 1)


def images_at_once(
    pipe: Any, height: int, width: int, guided: bool, budget: int | float | None = None
) -> int:
    """Return how many images a batch may hold (at least one).

    Args:
        budget: GiB of activations; by default 2 on a CPU and 60 % of what is free on a GPU.

    Raises:
        InterpError: the budget is not a positive number.
    """
    if budget is None:
        device = denoiser(pipe).device
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        budget = 0.6 * free / GIB if free else 2.0
    if not budget > 0:
        raise InterpError(
            f"A memory budget of {budget} GiB was given.",
            "A budget is a positive number of GiB.",
            "Leave it out for 2 GiB on a CPU and 60 % of what is free on a GPU.",
        )
    return max(1, int(budget * GIB // bytes_per_image(pipe, height, width, guided)))
