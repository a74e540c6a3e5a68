"""How different the images of one prompt are across seeds.

A memorized prompt gives the same image from every seed, so this measure of memorization needs no
training image.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InterpError
from interp.metrics.base import Metric
from interp.metrics.images import Images, as_batch


@dataclass(frozen=True)
class Diversity:
    """A pairwise metric between the images of one prompt, reduced to one number per prompt.

    Example:
        >>> Diversity(sscd)(images, groups=[0, 0, 0, 1, 1, 1])      # NeMo: low is diverse
        tensor([0.93, 0.12])
        >>> Diversity(LPIPS(), reduce="mean")(images)               # Kim & No: high is diverse
        tensor([0.64])

    Args:
        metric: any metric between two images; `larger_is_closer` says whether large means alike.
        reduce: how to reduce the pairs of a group.
    """

    metric: Metric
    reduce: Literal["median", "mean"] = "median"
    against: ClassVar[str] = "seeds"

    @property
    def name(self) -> str:
        return f"{self.reduce}_pairwise_{self.metric.name}"

    @property
    def larger_is_closer(self) -> bool:
        return self.metric.larger_is_closer

    def __call__(
        self, images: Images, groups: Sequence[Hashable] | None = None
    ) -> Float[Tensor, " groups"]:
        """Return one value per distinct group, in order of first appearance (all one by default).

        Raises:
            InterpError: a group has fewer than two images, or the lengths differ.
        """
        batch = as_batch(images)
        labels = [0] * len(batch) if groups is None else list(groups)
        if len(labels) != len(batch):
            raise InterpError(
                asked=f"{len(batch)} images were given with {len(labels)} group labels.",
                exists="There is one group label per image.",
                todo="Repeat each prompt's label once per seed.",
            )
        values = []
        for label in dict.fromkeys(labels):
            members = [i for i, other in enumerate(labels) if other == label]
            if len(members) < 2:
                raise InterpError(
                    asked=f"The diversity of group {label!r} was asked for, which has one image.",
                    exists="Diversity needs at least two seeds.",
                    todo="Generate more seeds per prompt.",
                )
            pairs = self.metric.pairwise(batch[members])
            values.append(pairs.quantile(0.5) if self.reduce == "median" else pairs.mean())
        return torch.stack(values) if values else torch.empty(0)

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "reduce": self.reduce, "metric": self.metric.provenance()}
