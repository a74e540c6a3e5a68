"""Patches: what to do to which token category, where. Values, not hooks.

A patch is frozen, hashable and printable; `&` composes left to right. It touches a pipeline only
between `on` (or `install`) and its end, and leaves no trace. The operations are those of Kim & No
(arXiv 2605.02908) and of the mitigations and corruptions of the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp.errors import InterpError
from interp.patch.base import Operation
from interp.patch.on_pipeline import Attached, attach
from interp.patch.operations import Mask
from interp.patch.serialise import dump, load
from interp.text.encoding import repad as repadded
from interp.text.html import listed
from interp.text.prompt import Prompt


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
        """Whether it is an edit of the embeddings alone, so that `embeds` can give its result."""
        return all(o.where.everywhere and not isinstance(o, Mask) for o in self.operations)

    def embeds(
        self, prompt: Prompt, pipe: Any = None, uncond: bool = False
    ) -> Float[Tensor, "position channel"]:
        """The prompt's embeddings after the patch, as for `pipe(prompt_embeds=...)`.

        Example:
            >>> zero("eot").embeds(prompt)[prompt.e]         # the zero vector

        `repad` needs the pipeline. With `uncond=True` the prompt is an unconditional one, which
        most operations leave alone.

        Raises:
            InterpError: if the patch is more than an edit of the embeddings.
        """
        if not self.edits_embeddings:
            raise InterpError(
                f"The embeddings after {self!r} were asked for.",
                "It masks, or is limited to layers, steps, heads, keys or values, so that no "
                "single set of embeddings stands for it.",
                "Use it with patch.on(pipe).",
            )

        def reencode(given: Prompt, token: str | int) -> Prompt:
            if pipe is None:
                raise InterpError(
                    f"The embeddings after {self!r} were asked for.",
                    "Other pads must be encoded, and no text encoder was given.",
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
    ) -> Iterator[Attached]:
        """Patch every call of the pipeline inside the block.

        Example:
            >>> with zero("pad", fraction=0.7).on(pipe):
            ...     pipe("Antique Church Poster in Berlin", num_images_per_prompt=4)
            >>> with patch.on(pipe, tokens=a):
            ...     pipe(prompt_embeds=a.embeds[None])

        Prompts given as text are recognised; with `prompt_embeds`, say in `tokens` what they are.
        `negative`, `guided` and `strict` are those of `attach`.

        Raises:
            InterpError: for what can not be patched; after the block, if it touched nothing.
        """
        given = [tokens] if isinstance(tokens, Prompt) else tokens
        worlds = None if given is None else [(prompt, self) for prompt in given]
        with attach(
            pipe, worlds, everyone=self, negative=negative, guided=guided, strict=strict
        ) as attached:
            yield attached

    def to_json(self, embeds: bool = False) -> str:
        """The patch as JSON; donors by text, ids and hash, or with their embeddings too.

        Example:
            >>> Patch.from_json(patch.to_json(), pipe=pipe) == patch
            True
        """
        return dump(self.operations, embeds)

    @classmethod
    def from_json(cls, text: str, pipe: Any = None, donors: Sequence[Prompt] = ()) -> Patch:
        """The patch that was written as JSON.

        Donors without embeddings are looked for among `donors`, then encoded again by `pipe`; both
        must match their hash, so that a patch can not come back as another one.

        Raises:
            InterpError: for text that is no patch, or a donor that can not be had again.
        """
        return cls(load(text, pipe, donors))

    def install(self, pipe: Any, *, strict: bool = True) -> Attached:
        """Patch every call of the pipeline from now on, until the handle's `remove()`.

        Example:
            >>> handle = shield.install(pipe)
            >>> handle.remove()
        """
        return Attached(pipe, None, self, None, None, strict)
