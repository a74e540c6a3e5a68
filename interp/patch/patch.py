"""Patches: what to do to which token category, where. Values, not hooks.

A patch is frozen, hashable and printable; `&` composes left to right. It affects a pipeline only
inside `on` or until an `install` is removed, and leaves no trace. `apply` gives every prompt of a
batch its own patch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.errors import InterpError
from interp.patch.applied import Applied, installed
from interp.patch.base import Operation
from interp.patch.serialise import dump, load
from interp.text.html import listed
from interp.text.prompt import Prompt
from interp.text.repad import repad as repadded


@dataclass(frozen=True, repr=False)
class Patch:
    """Operations, applied from left to right; the empty patch changes nothing.

    Example:
        >>> shield = repad("!") & zero("eot")
        >>> with shield.on(pipe):
        ...     pipe("Antique Church Poster in Berlin").images[0]
    """

    operations: tuple[Operation, ...] = ()

    def __and__(self, other: Patch) -> Patch:
        if not isinstance(other, Patch):
            return NotImplemented
        return Patch(self.operations + other.operations)

    def __repr__(self) -> str:
        return " & ".join(map(repr, self.operations)) or "Patch()"

    def _repr_html_(self) -> str:
        if not self.operations:
            return "<code>Patch()</code> changes nothing"
        return listed([(operation.categories, repr(operation)) for operation in self.operations])

    @property
    def edits_embeddings(self) -> bool:
        """Whether it only edits embeddings, so that `embeds` can give its result."""
        return all(o.where.everywhere and o.EDITS == "embeddings" for o in self.operations)

    def embeds(
        self, prompt: Prompt, pipe: Any = None, uncond: bool = False
    ) -> Float[Tensor, "position channel"]:
        """The prompt's embeddings after the patch, as for `pipe(prompt_embeds=...)`.

        Example:
            >>> zero("eot").embeds(prompt)[prompt.e]         # the zero vector

        `repad` needs the pipeline. `uncond=True` treats the prompt as an unconditional one, which
        most operations leave alone.

        Raises:
            InterpError: the patch does more than edit embeddings.
        """
        if not self.edits_embeddings:
            raise InterpError(
                f"The embeddings after {self!r} were asked for.",
                "It does more than edit embeddings: it masks, or is limited to layers, steps, "
                "heads, keys or values.",
                "Use it with patch.on(pipe).",
            )

        def reencode(given: Prompt, token: str | int) -> Prompt:
            if pipe is None:
                raise InterpError(
                    f"The embeddings after {self!r} were asked for.",
                    "It encodes the prompt again, which needs the pipeline's text encoder.",
                    "Pass the pipeline: patch.embeds(prompt, pipe).",
                )
            return repadded(pipe, given, token)

        embeds = prompt.embeds
        for operation in self.operations:
            if operation.where.on_row(uncond):
                embeds = operation.edit(embeds, prompt, reencode)
        return embeds

    @contextmanager
    def on(
        self,
        pipe: Any,
        tokens: Prompt | Sequence[Prompt] | None = None,
        *,
        negative: Prompt | Sequence[Prompt] | None = None,
        guided: bool | None = None,
        strict: bool = True,
    ) -> Iterator[Applied]:
        """Patch every call of the pipeline inside the block.

        Example:
            >>> with zero("pad", fraction=0.7).on(pipe):
            ...     pipe("Antique Church Poster in Berlin", num_images_per_prompt=4)
            >>> with patch.on(pipe, tokens=a):
            ...     pipe(prompt_embeds=a.embeds[None], negative_prompt="")

        Prompts passed as text are recognised; with `prompt_embeds`, pass the prompts as `tokens`.
        `negative`, `guided` and `strict` are as in `apply`.

        Raises:
            InterpError: the pipeline can not be patched; before a batch runs, the patch would touch
                none of its rows; after the block, it touched nothing.
        """
        with Applied(pipe, [self.operations], tokens, negative, guided, strict) as applied:
            yield applied

    def install(self, pipe: Any, *, strict: bool | None = None) -> Applied:
        """Patch every call of the pipeline from now on, until the handle's `remove()`.

        Example:
            >>> handle = shield.install(pipe)
            >>> handle.remove()                # or, if the handle is lost, ip.remove(pipe)

        A prompt without the positions in question (one of 75 tokens has no pads) is left alone with
        a warning; `strict=True` refuses it before it runs, `strict=False` says nothing. Installing
        a patch that is already installed warns, because it then applies twice.
        """
        if any(self.operations == applied.operations for applied in installed(pipe)):
            warnings.warn(
                f"{self!r} is already on this pipeline and now applies twice; ip.remove(pipe) "
                "removes all patches.",
                stacklevel=2,
            )
        return Applied(pipe, [self.operations], None, None, None, strict)

    def to_json(self, embeds: bool = False) -> str:
        """The patch as JSON; donors by text, ids and hash, and optionally their embeddings.

        Example:
            >>> Patch.from_json(patch.to_json(), pipe=pipe) == patch
            True
        """
        return dump(self.operations, embeds)

    @classmethod
    def from_json(cls, text: str, pipe: Any = None, donors: Sequence[Prompt] = ()) -> Patch:
        """Read a patch from JSON.

        Donors without embeddings are looked up in `donors`, or encoded again by `pipe`; either way
        they must match their hash, so that the patch is the one that was written.

        Raises:
            InterpError: the text is not a patch, or a donor can not be recovered.
        """
        return cls(load(text, pipe, donors))


@contextmanager
def apply(
    pipe: Any,
    patches: Sequence[tuple[Prompt, Patch | None]],
    *,
    negative: Prompt | Sequence[Prompt] | None = None,
    guided: bool | None = None,
    strict: bool = True,
) -> Iterator[Applied]:
    """Patch each prompt of a batch with its own patch.

    Example:
        >>> embeds = torch.stack([a.embeds, b.embeds])
        >>> with apply(pipe, [(a, zero("pad")), (b, None)], negative=empty):
        ...     pipe(prompt_embeds=embeds, negative_prompt_embeds=empty.embeds.expand(2, -1, -1))

    Args:
        pipe: a Stable Diffusion 1.x, 2.x or SDXL pipeline.
        patches: every conditional prompt, in the batch's order, with its patch or None.
        negative: the unconditional prompts, one for all or one per conditional prompt, if the
            pipeline does not encode them itself.
        guided: whether batches have unconditional rows; None asks the pipeline.
        strict: whether an operation that touches nothing is an error.

    Raises:
        InterpError: on entry, something can not be hooked or does not exist; before a batch runs,
            an operation would touch none of its rows; on exit without another exception, an
            operation touched nothing, or the pipeline's UNet was replaced.
    """
    prompts = [prompt for prompt, _ in patches]
    operations = [() if patch is None else patch.operations for _, patch in patches]
    with Applied(pipe, operations, prompts, negative, guided, strict) as applied:
        yield applied
