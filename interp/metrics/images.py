"""Images in any form that users have, as one: a float batch `[n, 3, h, w]` in [0, 1].

All resizing in this package is `torch.nn.functional.interpolate(..., antialias=True)` on floats, so
no metric needs torchvision. Pillow's filter of the same name gives the same values, except that it
rounds to 8 bits and clips where bicubic overshoots (tested). Not for augmentation.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from einops import rearrange, repeat
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from interp.errors import InterpError

Images = Tensor | np.ndarray | xr.DataArray | Image.Image | Sequence[Image.Image]
Filter = Literal["bilinear", "bicubic"]


def as_batch(images: Images) -> Float[Tensor, "n 3 h w"]:
    """Return any kind of images as a float batch in [0, 1].

    Example:
        >>> as_batch([Image.new("RGB", (8, 4))]).shape
        torch.Size([1, 3, 4, 8])

    Args:
        images: a tensor `[n, 3, h, w]` (or `[3, h, w]`), an array or DataArray `[..., h, w, 3]`
            (leading axes are flattened), one PIL image, or a list of PIL images of one size.
            Integers are read as 0..255, floats as 0..1.

    Raises:
        InterpError: sizes differ within the list, the shape is not an image's, or values are
            outside [0, 1] or NaN.
    """
    if isinstance(images, Image.Image):
        images = [images]
    if isinstance(images, xr.DataArray):
        images = images.values
    if isinstance(images, Tensor):
        batch = rearrange(images, "c h w -> 1 c h w") if images.ndim == 3 else images
    elif isinstance(images, np.ndarray):
        batch = torch.from_numpy(np.ascontiguousarray(images))
        batch = rearrange(batch, "... h w c -> (...) c h w") if batch.ndim >= 3 else batch
    else:
        batch = _stack(images)
    if batch.ndim != 4 or batch.shape[1] != 3:
        raise InterpError(
            asked=f"Images of shape {tuple(batch.shape)} were given.",
            exists="Images are tensors [n, 3, h, w], arrays [..., h, w, 3] or PIL images.",
            todo="Convert to RGB and put the axes in that order.",
        )
    batch = batch.float() if batch.is_floating_point() else batch.float() / 255
    if not bool(torch.isfinite(batch).all()):
        raise InterpError(
            asked=f"{len(batch)} images were given.",
            exists="They contain NaN or infinity, which no metric can compare.",
            todo="Look for an overflow; float16 models overflow, float32 and bfloat16 rarely do.",
        )
    if batch.numel() and (batch.min() < -1e-3 or batch.max() > 1 + 1e-3):
        raise InterpError(
            asked=f"Float images with values {batch.min():.3g} to {batch.max():.3g} were given.",
            exists="Images are floats in [0, 1] or integers in 0..255.",
            todo="Undo the normalisation first; from [-1, 1] that is images / 2 + 0.5.",
        )
    return batch.clamp(0, 1)


def _stack(images: Sequence[Image.Image]) -> Tensor:
    images = list(images)
    if not images or not all(isinstance(image, Image.Image) for image in images):
        kinds = sorted({type(image).__name__ for image in images}) or ["nothing"]
        raise InterpError(
            asked=f"A list of {', '.join(kinds)} was given as images.",
            exists="Images are tensors [n, 3, h, w], arrays [..., h, w, 3] or PIL images.",
            todo="Pass at least one image; stack tensors with torch.stack first.",
        )
    sizes = sorted({image.size for image in images})
    if len(sizes) > 1:
        raise InterpError(
            asked=f"Images of sizes {sizes} were given as one batch.",
            exists="All images of a batch must have the same size.",
            todo="Resize them to one size, or call the metric once per size.",
        )
    array = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return rearrange(torch.from_numpy(array), "n h w c -> n c h w")


def aligned(images: Images, reference: Images) -> tuple[Tensor, Tensor]:
    """Return two batches of equal length; `reference` is one image for all, or one for each.

    Raises:
        InterpError: the lengths differ and the reference is not a single image.
    """
    a, b = as_batch(images), as_batch(reference)
    return a, one_for_each(b, len(a), "reference").to(a.device)


def one_for_each(given: Float[Tensor, "m ..."], images: int, what: str) -> Float[Tensor, "n ..."]:
    """Return one row for each image: those given, or a single one repeated.

    Raises:
        InterpError: there are several, but not one for each image; it calls them `what`.
    """
    if len(given) not in (1, images):
        raise InterpError(
            asked=f"Cannot compare {images} images with {len(given)} {what}s.",
            exists=f"There must be one {what} for all images, or one for each.",
            todo=f"Repeat or select the {what}s so that the lengths agree.",
        )
    return repeat(given, "1 ... -> n ...", n=images) if len(given) == 1 else given


def same_size(images: Images, reference: Images) -> tuple[Tensor, Tensor]:
    """`aligned`, for metrics that compare pixel with pixel.

    Raises:
        InterpError: heights or widths differ; resizing would affect the number.
    """
    a, b = aligned(images, reference)
    if a.shape != b.shape:
        raise InterpError(
            asked=f"Cannot compare pixels of {a.shape[-2]} x {a.shape[-1]} with "
            f"{b.shape[-2]} x {b.shape[-1]}.",
            exists="Pixel metrics compare images of equal size.",
            todo="Resize the reference to the generated size, and mention it with the number.",
        )
    return a, b


def resize(
    batch: Float[Tensor, "n 3 h w"], size: tuple[int, int], filter: Filter = "bilinear"
) -> Float[Tensor, "n 3 newh neww"]:
    """Return the batch at `size` (height, width), antialiased, clipped to [0, 1]."""
    return F.interpolate(batch, size=size, mode=filter, antialias=True, align_corners=False).clamp(
        0, 1
    )


def resize_short_edge(
    batch: Float[Tensor, "n 3 h w"], size: int, filter: Filter = "bilinear"
) -> Float[Tensor, "n 3 newh neww"]:
    """Return the batch with its shorter edge at `size`, aspect kept (truncated, as torchvision)."""
    height, width = batch.shape[-2:]
    long = int(size * max(height, width) / min(height, width))
    return resize(batch, (size, long) if height <= width else (long, size), filter)


def centre_crop(batch: Float[Tensor, "n 3 h w"], size: int) -> Float[Tensor, "n 3 size size"]:
    """Return the central `size` x `size` square; the batch must be at least that large.

    Where the margin is odd, half of it is rounded to the even number, as torchvision does.
    """
    top, left = (round((edge - size) / 2) for edge in batch.shape[-2:])
    return batch[..., top : top + size, left : left + size]


def normalise(
    batch: Float[Tensor, "n 3 h w"], mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "n 3 h w"]:
    """Return `(batch - mean) / std` per channel."""
    shift, scale = (rearrange(batch.new_tensor(values), "c -> c 1 1") for values in (mean, std))
    return (batch - shift) / scale
