"""How many images fit into memory at once: estimated first, then found.

The estimate is from the pipeline's shapes, and the budget is of a batch's activations; weights come
on top. Where memory runs out all the same, the batch is halved and made again, and later batches of
that model are no larger.
"""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import nn

from interp.denoiser.pipelines import denoiser
from interp.errors import InterpError
from interp.transformer.family import CLIP, family

GIB = 2**30
#: Activations alive at once in a UNet forward, in units of one full-resolution feature map of its
#: first block: the skip connections, one feed-forward of 8 times the width, and its input. As many
#: for a transformer: queries, keys and values, and a feed-forward of 4 times the width.
MAPS_PER_ROW = 24


FITS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""Bytes, by the estimate, of the half of a batch for which there was no memory, by its UNet."""


R = TypeVar("R")


def halving(
    items: Any,
    make: Callable[[Any], R],
    at_once: Callable[[], int],
    too_many: Callable[[int], None] = lambda count: None,
) -> Iterator[tuple[Any, R]]:
    """Yield `make(batch)` batch by batch; one for which memory does not suffice comes in halves.

    Example:
        >>> torch.cat([made for _, made in halving(images, describe, lambda: 32)])

    Args:
        items: what batches are cut of: a list or a tensor.
        make: may be called again on a part of what it failed on.
        at_once: how many items the next batch may have.
        too_many: told how many there were when memory ran out.

    Raises:
        torch.OutOfMemoryError: for a batch of one.
    """
    most = len(items)
    while len(items):
        batch = items[: max(1, min(most, at_once()))]
        try:
            made = [make(batch)]
        except RuntimeError as error:
            if len(batch) == 1 or not out_of_memory(error):
                raise
            made = []
        if made:
            yield batch, made[0]
            items = items[len(batch) :]
            continue
        # Only here, where the traceback no longer keeps what filled the memory.
        too_many(len(batch))
        most = len(batch) // 2
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the machine, had no memory for a tensor."""
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error)


def did_not_fit(pipe: Any, height: int, width: int, guided: bool, images: int) -> None:
    """Write down that memory did not suffice for so many images at once.

    Example:
        >>> did_not_fit(pipe, 512, 512, True, images=16)
        >>> images_at_once(pipe, 512, 512, True)
        8
    """
    FITS[denoiser(pipe)] = images // 2 * bytes_per_image(pipe, height, width, guided)


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
    """Return how many images a batch may hold (at least one), by what is known by now.

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
    most = min(budget * GIB, FITS.get(denoiser(pipe), float("inf")))
    return max(1, int(most // bytes_per_image(pipe, height, width, guided)))
