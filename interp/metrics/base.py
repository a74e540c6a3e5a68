"""What every metric is: a callable on two batches, with its provenance.

Results in this field depend on how images were resized and which weights were used, so a metric
records both. A metric has no threshold: calibrate one on controls.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.metrics.images import Images, as_batch


class Metric(ABC):
    """A callable `metric(images, reference) -> Tensor[n]`, named, with its provenance.

    Example:
        >>> pixel_l2(images, training_image)        # one reference for all, or one for each
        tensor([0.0213, 0.3144])
    """

    name: str
    #: True where a larger value means that the images are more alike.
    larger_is_closer: bool
    #: What the second argument is: a reference "image", the "prompt", or groups of "seeds".
    against: str = "image"

    @abstractmethod
    def __call__(self, images: Images, reference: Any) -> Float[Tensor, " n"]:
        """Return one float32 value per image, on the CPU."""

    @abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Return every choice that changes the number, as plain JSON values."""

    def pairwise(self, images: Images) -> Float[Tensor, " pairs"]:
        """Return the metric of all unordered pairs, in the order (0, 1), (0, 2), (1, 2), ..."""
        batch = as_batch(images)
        rows = [self(batch[i + 1 :], batch[i : i + 1]) for i in range(len(batch) - 1)]
        return torch.cat(rows) if rows else torch.empty(0)

    def __repr__(self) -> str:
        facts = ", ".join(f"{key}={value!r}" for key, value in self.provenance().items())
        return f"{type(self).__name__}({facts})"


def cosines(unit: Float[Tensor, "n d"]) -> Float[Tensor, " pairs"]:
    """Return the cosines of all unordered pairs of unit vectors, in the order of `pairwise`."""
    i, j = torch.triu_indices(len(unit), len(unit), offset=1)
    return einsum(unit[i], unit[j], "p d, p d -> p")
