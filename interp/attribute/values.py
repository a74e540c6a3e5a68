"""What is attributed: a number for every generation, from its images or its noise predictions.

A value is called with a dataset whose first `patch` is the unedited generation, and gives one
number for each `(patch, prompt, seed)`. Any function of that dataset will do; it is given images,
or, if it has `needs = "trace"`, what `Session.trace` returns. Values of noise predictions are torch
functions underneath, so that they can be differentiated and evaluated at single steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import xarray as xr
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from interp.errors import InterpError
from interp.metrics.base import Metric
from interp.patch import Where
from interp.patch.where import Steps
from interp.session import Session
from interp.text.prompt import Prompt

Value = Callable[[xr.Dataset], Any]
AXES = ("patch", "prompt", "seed")
GROUP = 31
"""Generations whose traces are held at once, beside the unedited one."""
OfNoise = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class NoiseValue:
    """A value of the noise predictions of one step, averaged over steps; see `noise_value`.

    `norm` says that it is `|eps_c - eps_u|`, of which finite changes can be estimated.
    """

    function: OfNoise
    name: str
    steps: range | tuple[int, ...] | None = None
    norm: bool = False
    needs = "trace"

    def at(
        self, eps_c: Float[Tensor, "row c h w"], eps_u: Float[Tensor, "row c h w"]
    ) -> Float[Tensor, " row"]:
        """The value of every row, in float32 and differentiable."""
        return self.function(eps_c.float(), eps_u.float())

    def chosen(self, steps: int) -> list[int]:
        """The steps, of so many, that are averaged over.

        Raises:
            InterpError: if none of them is meant.
        """
        found = [step for step in range(steps) if self.steps is None or step in self.steps]
        if not found:
            raise InterpError(
                f"{self.name} at steps {self.steps} was asked for.",
                f"A run has {steps} steps, counted from 0.",
                "Name some of them, or leave steps out for all.",
            )
        return found

    def __call__(self, data: xr.Dataset) -> xr.DataArray:
        """The value of a trace, `(patch, prompt, seed)`.

        Raises:
            InterpError: without unconditional predictions.
        """
        if "eps_u" not in data:
            raise InterpError(
                f"{self.name} was asked for.",
                "Without guidance the unconditional noise is never predicted.",
                "Use a session with guidance above 1.",
            )
        dims = (*AXES, "step", "channel", "latent_y", "latent_x")
        part = data[["eps_c", "eps_u"]].isel(step=self.chosen(data.sizes["step"]))
        lengths = {name: part.sizes[name] for name in (*AXES, "step")}
        eps_c, eps_u = (
            rearrange(
                torch.from_numpy(part[name].transpose(*dims).values), "p q s t ... -> (p q s t) ..."
            )
            for name in ("eps_c", "eps_u")
        )
        by_step = rearrange(
            self.at(eps_c, eps_u), "(patch prompt seed step) -> patch prompt seed step", **lengths
        )
        return xr.DataArray(reduce(by_step, "p q s t -> p q s", "mean").numpy(), dims=AXES)


def noise_value(function: OfNoise, name: str | None = None, steps: Steps = None) -> NoiseValue:
    """A value from any differentiable function of `(eps_c, eps_u)`, both `[row, c, h, w]`.

    Example:
        >>> noise_value(lambda eps_c, eps_u: -cosine(eps_c, eps_u), "angle", steps=slice(0, 10))

    Args:
        function: torch in, `[row]` out; it must not mix rows.
        name: what figures call it; the function's own name by default.
        steps: UNet calls, counted from 0, over which it is averaged; all by default.
    """
    named = name or getattr(function, "__name__", repr(function))
    return NoiseValue(function, named, Where(steps=steps).steps)  # type: ignore[arg-type]


def guidance(steps: Steps = None) -> NoiseValue:
    """`|eps_c - eps_u|`, the norm over all elements of the latent, averaged over steps.

    Example:
        >>> shapley(sd, a, baseline=b, value=guidance(steps=slice(0, 10)))

    Source: Wen et al., ICLR 2024 (arXiv 2407.21720), section 4: it is large for memorized prompts.
    """
    return replace(noise_value(_guidance_norm, "|eps_c - eps_u|", steps), norm=True)


def _guidance_norm(eps_c: Tensor, eps_u: Tensor) -> Tensor:
    # Where both are equal the norm has no gradient; torch then gives 0, which is right here.
    return torch.linalg.vector_norm(eps_c - eps_u, dim=(1, 2, 3))


@dataclass(frozen=True)
class Similarity:
    """A metric between images and a reference, or the unedited generation; see `similarity`."""

    metric: Metric
    reference: Any = None
    needs = "images"

    @property
    def name(self) -> str:
        """What figures call it."""
        to = "unedited" if self.reference is None else "reference"
        return f"{self.metric.name} to {to}"

    def of(self, row: int) -> Similarity:
        """The same for one of several prompts, with its own reference where they have one each."""
        if not isinstance(self.reference, (list, tuple)):
            return self
        return replace(self, reference=self.reference[row])

    def __call__(self, data: xr.Dataset) -> xr.DataArray:
        """The metric of every image, `(patch, prompt, seed)`."""
        image = data.image.transpose(*AXES, "pixel_y", "pixel_x", "rgb")
        rows = []
        for patch in range(image.sizes["patch"]):
            for prompt in range(image.sizes["prompt"]):
                reference = self.of(prompt).reference
                if reference is None:
                    reference = image.isel(patch=0, prompt=prompt)
                rows.append(self.metric(image.isel(patch=patch, prompt=prompt), reference))
        lengths = {name: image.sizes[name] for name in AXES[:2]}
        values = rearrange(rows, "(patch prompt) seed -> patch prompt seed", **lengths)
        return xr.DataArray(values.numpy(), dims=AXES)


def similarity(metric: Metric, reference: Any = None) -> Similarity:
    """How close the images are to a training image, or to what is generated without any edit.

    Example:
        >>> similarity(ip.metrics.SSCD("sscd.torchscript.pt"), training_image)

    Args:
        metric: any of `interp.metrics` that compares images with a reference.
        reference: an image, or a list with one per prompt; None is the unedited generation of the
            same prompt and seed.
    """
    return Similarity(metric, reference)


def of_prompt(value: Value, row: int) -> Value:
    """The value for one of several prompts, whose own reference it takes where it has one each.

    Example:
        >>> of_prompt(similarity(sscd, [first_image, second_image]), 1)
    """
    return value.of(row) if isinstance(value, Similarity) else value


def measure(
    session: Session,
    prompt: Prompt,
    seed: int,
    patches: Mapping[str, Any],
    value: Value,
    trajectory: str = "own",
) -> list[float]:
    """The value of one prompt and seed under several patches, the first of which is None.

    Example:
        >>> measure(sd, a, 0, {"clean": None, "zero": ip.zero("pad")}, guidance())
        [12.9, 3.1]

    Equal patches are run once, and in groups, because the traces of all would not fit into memory;
    each group has the unedited generation beside it.

    Raises:
        InterpError: if the value is not one number per patch.
    """
    distinct = list(dict.fromkeys(patches.values()))
    known: dict[Any, float] = {}
    for first in range(1, max(2, len(distinct)), GROUP):
        group = [distinct[0], *distinct[first : first + GROUP]]
        named = {str(number): patch for number, patch in enumerate(group)}
        if getattr(value, "needs", "images") == "trace":
            data = session.trace(prompt, [seed], named, half=False, trajectory=trajectory)
        else:
            data = session.run(prompt, [seed], named, images=True, trajectory=trajectory)
        values = torch.as_tensor(getattr(called := value(data), "values", called)).flatten()
        if len(values) != len(group):
            raise InterpError(
                f"The value of {len(group)} generations was asked for.",
                f"The function gave {len(values)} numbers.",
                "Return one number for each patch, prompt and seed of the dataset.",
            )
        known |= dict(zip(group, values.tolist(), strict=True))
    return [known[patch] for patch in patches.values()]


def generations(patches: Mapping[str, Any]) -> int:
    """How many generations `measure` makes.

    Example:
        >>> generations({"clean": None, "zero": ip.zero("pad"), "again": ip.zero("pad")})
        2
    """
    edited = len(set(patches.values())) - 1
    return edited + max(1, -(-edited // GROUP))


def value_name(value: Value) -> str:
    """What a value is called in results.

    Example:
        >>> value_name(guidance())
        '|eps_c - eps_u|'
    """
    return str(getattr(value, "name", None) or getattr(value, "__name__", type(value).__name__))
