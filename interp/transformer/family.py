"""What has to be known of a family of transformers, so that the toolkit's verbs work on it.

A family is one file beside this one, and a line in `families`: where its text goes in, which of
its positions are whose, its blocks in the order in which they run, and how they attend.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import InterpError
from interp.transformer.calls import Calls, flow

CLIP, T5 = "clip", "t5"


@dataclass(frozen=True)
class Segment:
    """Some positions of the text, side by side in the stream, that one tokenizer filled.

    Attributes:
        name: "clip" or "t5".
        encoders: endings of the pipeline's `tokenizer` and `text_encoder`; several give channels
            of the same positions.
        state: which of the encoder's hidden states is taken; None is its last, normalised one.
    """

    name: str
    encoders: tuple[str, ...]
    state: int | None = None


@dataclass(frozen=True)
class Block:
    """A block that reads the text: its short name, kind, module path, attention and heads."""

    name: str
    kind: str
    path: str
    attention: str
    heads: int


@dataclass(frozen=True)
class Attended:
    """What the image attends with, and what it attends to: the text's keys, then the image's.

    Attributes:
        text: how many of the keys are the text's.
        bias: what is added to the logits, or None.
    """

    queries: Float[Tensor, "row head query inner"]
    keys: Float[Tensor, "row head key inner"]
    text: int
    scale: float
    bias: Float[Tensor, "#row #head #query key"] | None = None


class Family(Calls, ABC):
    """One family of transformer pipelines; what its calls are is in `Calls`.

    Attributes:
        pipelines: names of the pipeline classes whose batches are known; the first makes images
            from text alone.
        segments: what the text stream is made of.
        pooled: endings of the encoders whose pooled embeddings are added to the timestep's.
        length: T5's positions where the pipeline is not told otherwise.
        batched: arguments of the transformer that have a row for every image.
        joint: whether the image attends to itself in the same softmax.
        masks: whether T5 and the transformer are told which positions are pads.
    """

    transformer: ClassVar[str]
    pipelines: ClassVar[tuple[str, ...]]
    segments: ClassVar[tuple[Segment, ...]]
    pooled: ClassVar[tuple[str, ...]] = ()
    length: ClassVar[int]
    batched: ClassVar[tuple[str, ...]]
    processors: ClassVar[tuple[str, ...]]
    joint: ClassVar[bool] = True
    masks: ClassVar[bool] = False

    def multiple(self, pipe: Any) -> int:
        # Latents come in patches of two by two.
        return 2 * pipe.vae_scale_factor

    def guided(self, denoiser: Any, guidance: float, call: Mapping[str, Any]) -> bool:
        return guidance > 1

    def arguments(
        self,
        pipe: Any,
        latents: Float[Tensor, "row c h w"],
        embeds: Float[Tensor, "row position channel"],
        pooled: Float[Tensor, " pooled"] | None,
        read: Any,
        guidance: float,
    ) -> dict[str, Any]:
        given: dict[str, Any] = {"encoder_hidden_states": embeds}
        if pooled is not None:
            given["pooled_projections"] = pooled.expand(len(latents), -1).to(embeds)
        return given

    def schedule(self, scheduler: Any, steps: int, tokens: int = 4096, device: Any = None) -> None:
        flow(scheduler, steps, tokens, device, sigmas=False)

    @abstractmethod
    def blocks(self, transformer: Any) -> list[Block]:
        """The blocks that read the text, in the order in which they run."""

    @abstractmethod
    def attended(
        self, attention: Any, args: tuple, kwargs: Mapping[str, Any], text: int
    ) -> Attended:
        """What a call of a block's attention attended with, worked out again, hooks included.

        `text` is how many positions the text has.
        """

    def masked(
        self, attention: Any, args: tuple, kwargs: Mapping[str, Any], output: Any
    ) -> Any | None:
        """A layer's output under its mask, where its own processor ignores masks; else None."""
        return None

    def mask(
        self, out: Float[Tensor, "row key head 1"], given: Tensor | None, attention: Any
    ) -> Tensor:
        """Keys at minus infinity, as the attention takes its mask: `[row, head, 1, key]`."""
        bias = out.permute(0, 2, 3, 1)
        return bias if given is None else bias + given


def named(kind: str, list_name: str, attention: str, blocks: Iterable[Any]) -> list[Block]:
    """Blocks of one list under short names.

    Example:
        >>> named("joint", "transformer_blocks", "attn", sd3.transformer.transformer_blocks)[0].name
        'joint.0'
    """
    return [
        Block(
            f"{kind}.{number}",
            kind,
            f"{list_name}.{number}",
            f"{list_name}.{number}.{attention}",
            getattr(block, attention).heads,
        )
        for number, block in enumerate(blocks)
    ]


def families() -> dict[str, Family]:
    """The families by the class of their transformer; imported when one is looked for."""
    from interp.transformer import flux, pixart, sd3

    known: list[Family] = [sd3.SD3(), flux.Flux(), pixart.PixArt()]
    return {one.transformer: one for one in known}


def family(of: Any) -> Family | None:
    """The family of a pipeline or of its transformer; None for one with a UNet.

    Example:
        >>> family(sd3).segments[0].name
        'clip'

    Raises:
        InterpError: for a pipeline with the transformer of a family, whose batches are not known.
    """
    pipeline = not isinstance(of, nn.Module)
    inside = getattr(of, "transformer", None) if pipeline else of
    found = None if inside is None else families().get(type(inside).__name__)
    if found is not None and pipeline:
        kind = type(of).__name__
        if kind not in found.pipelines:
            raise InterpError(
                f"A {kind} was to be patched, recorded or asked for its text.",
                f"Of the pipelines with a {found.transformer}, those that are known are "
                f"{', '.join(found.pipelines)}.",
                "Use one of them with the same components.",
            )
    return found


def calls(pipe: Any) -> Calls:
    """How a pipeline is called, and calls its denoiser.

    Example:
        >>> calls(flux).packed(latents).shape      # [row, token, 64]
    """
    return family(pipe) or Calls()


def heads_first(
    projected: Float[Tensor, "row place width"], heads: int
) -> Float[Tensor, "row head place inner"]:
    """Projections, head by head."""
    return projected.unflatten(-1, (heads, -1)).transpose(1, 2)


def joined(text: Tensor | None, image: Tensor) -> Float[Tensor, "row head key inner"]:
    """The text's keys before the image's."""
    return image if text is None else torch.cat([text, image], dim=2)
