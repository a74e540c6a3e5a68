"""The patches on one denoiser: what they do to each row of its batch at the current step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from interp.denoiser.batch import RowReader
from interp.denoiser.clock import StepClock
from interp.denoiser.layers import Site
from interp.errors import InterpError
from interp.patch.base import Operation
from interp.patch.plan import RowEdits
from interp.text.prompt import Prompt


@dataclass(eq=False)
class At:
    """The patches on one denoiser: where they apply, and the step and rows of its calls.

    Attributes:
        by_prompt: the operations on each conditional prompt, in order; or one entry for all.
        heads: the layers and heads of every operation.
        touched: the operations that have touched something.
    """

    by_prompt: Sequence[tuple[Operation, ...]]
    heads: dict[Operation, dict[Site, tuple[int, ...]]]
    reader: RowReader
    clock: StepClock
    touched: set[Operation]

    def edits(self, site: Site) -> RowEdits:
        """The operations on every row of the batch, at this layer and the current step.

        Raises:
            InterpError: an operation applies to unconditional rows whose prompts are unknown.
        """
        found = []
        for here in self.on_rows():
            found.append(
                tuple(
                    (operation, _known(operation, prompt))
                    for operation, prompt in here
                    if operation.where.at_step(self.clock.step) and site in self.heads[operation]
                )
            )
        return tuple(found)

    def on_image(self, image: int) -> tuple[Operation, ...]:
        """The operations on one image of the batch, at any step."""
        place = image // self.reader.batch.images
        return self.by_prompt[place if len(self.by_prompt) > 1 else 0]

    def on_rows(self) -> list[list[tuple[Operation, Prompt | None]]]:
        """The operations on every row of the batch at any step or layer, each with its prompt."""
        rows = self.reader.batch
        found = []
        for row, prompt in enumerate(rows.prompts):
            unconditional = row < rows.uncond
            # An unconditional row belongs to the same image as its paired conditional row.
            image = row if unconditional else row - rows.uncond
            beside = rows.beside(row)
            found.append(
                [
                    (operation, operation.whose(prompt, beside))
                    for operation in self.on_image(image)
                    if operation.where.on_row(unconditional)
                ]
            )
        return found


def _known(operation: Operation, prompt: Prompt | None) -> Prompt:
    if prompt is None:
        raise InterpError(
            f"{operation!r} applies to unconditional rows.",
            "Their prompts are unknown: they were passed as negative_prompt_embeds, or SDXL's two "
            "tokenizers split the negative prompt into different numbers of tokens, as for '!!'.",
            "Pass the prompts, negative=interp.encode(pipe, ''), or replace several '!' by one.",
        )
    return prompt
