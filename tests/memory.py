"""A machine whose memory suffices for so many rows of a UNet, in this process."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from diffusers import UNet2DConditionModel

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@contextmanager
def scarce(most: int, error: RuntimeError = FULL) -> Iterator[list[int]]:
    """Inside the block larger batches fail; the rows of every batch that was tried."""
    tried: list[int] = []
    forward = UNet2DConditionModel.forward

    @wraps(forward)
    def checked(self: Any, sample: torch.Tensor, *rest: Any, **named: Any) -> Any:
        tried.append(len(sample))
        if len(sample) > most:
            raise error
        return forward(self, sample, *rest, **named)

    with patch.object(UNet2DConditionModel, "forward", checked):
        yield tried
