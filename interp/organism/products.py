"""Convolutions as matrix products, for training in bfloat16 on a CPU.

torch's own convolution runs its backward pass in bfloat16 at a fifth of what the processor's matrix
units (AMX) reach. As products of columns (im2col) a training step takes half as long. Not for
inference, and not for GPUs, whose convolutions are fast.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


def columns(images: Tensor, side: int) -> Tensor:
    """`[b, c, h, w]` to the neighbourhoods of all positions, `[b h w, side side c]`."""
    edge = side // 2
    padded = F.pad(rearrange(images, "b c h w -> b h w c"), (0, 0, edge, edge, edge, edge))
    windows = padded.unfold(1, side, 1).unfold(2, side, 1)
    return rearrange(windows, "b h w c i j -> (b h w) (i j c)")


class Product(torch.autograd.Function):
    """A convolution of stride 1 that keeps the size, all of it in bfloat16."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`[b, c, h, w]`, `[o, c, side, side]`, `[o]` to `[b, o, h, w]`."""
        weight = weight.bfloat16()
        seen = columns(images.bfloat16(), weight.shape[-1])
        out = torch.addmm(bias.bfloat16(), seen, rearrange(weight, "o c i j -> (i j c) o"))
        ctx.save_for_backward(seen, weight)
        height, width = images.shape[-2:]
        return rearrange(out, "(b h w) o -> b o h w", h=height, w=width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen, weight = ctx.saved_tensors
        grad = grads[0].bfloat16()
        side, (height, width) = weight.shape[-1], grad.shape[-2:]
        flat = rearrange(grad, "b o h w -> (b h w) o")
        by_weight = rearrange(flat.T @ seen, "o (i j c) -> o c i j", i=side, j=side)
        turned = rearrange(weight.flip(2, 3), "o c i j -> (i j o) c")
        by_images = rearrange(
            columns(grad, side) @ turned, "(b h w) c -> b c h w", h=height, w=width
        )
        return by_images, by_weight.float(), flat.float().sum(0)


@contextmanager
def as_products(module: nn.Module) -> Iterator[None]:
    """Run the 3 x 3 convolutions of a module that keep the size as products, for as long.

    Example:
        >>> with as_products(unet):
        ...     loss(unet).backward()
    """
    mine = [
        layer
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d)
        and (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
        and layer.groups == 1
        and layer.bias is not None
    ]
    for layer in mine:
        layer.forward = partial(_forward, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in mine:
            del layer.forward


def _forward(layer: nn.Conv2d, images: Tensor) -> Tensor:
    return Product.apply(images, layer.weight, layer.bias)
