"""Which operations make sense on which pipelines, and why others do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from interp.denoiser.epsilon import FLOW, prediction
from interp.errors import InterpError
from interp.patch.base import Operation
from interp.patch.guidance import Repel
from interp.patch.operations import Copy, Mask
from interp.text.categories import POOLED
from interp.transformer.family import family

REFUSED: dict[str, Callable[[Operation], bool]] = {
    "only a UNet's value projections have neurons to silence": lambda o: o.EDITS == "values",
    "keys and values are not linear in the embeddings: only mask takes heads=, nothing side=": (
        lambda o: (o.where.heads is not None and o.EDITS != "keys") or o.where.side != "kv"
    ),
    "the pooled vector is not a position: it has no layers or keys, and can not be copied to": (
        lambda o: (
            POOLED in o.categories and (o.where.layers is not None or isinstance(o, Mask | Copy))
        )
    ),
    "logits are turned down in a UNet's cross-attention": lambda o: o.EDITS == "logits",
    "a third prediction is asked of a UNet": lambda o: isinstance(o, Repel),
}
"""Why an operation can not be on a transformer."""


def must_make_sense(operations: Sequence[Operation], pipe: Any) -> None:
    """Raise for operations that would not mean the same on this pipeline as on others.

    Example:
        >>> must_make_sense(zero("pooled").operations, pipe)     # a UNet's pipeline
        Traceback (most recent call last):
        interp.errors.InterpError: ...

    Raises:
        InterpError: naming the operation and why.
    """
    known = family(pipe)
    for operation in operations:
        if known is None:
            pooled = POOLED in operation.categories
            reasons = ["the pooled embedding can not be patched"] if pooled else []
        else:
            reasons = [reason for reason, holds in REFUSED.items() if holds(operation)]
            if getattr(operation, "until", None) and prediction(pipe.scheduler) == FLOW:
                reasons.append("guidance begins at 0, because the first noise is known, and falls "
                               "to no first minimum")  # fmt: skip
        if reasons:
            raise InterpError(
                f"Cannot put {operation!r} on a {type(pipe).__name__}.",
                f"There, {reasons[0]}.",
                "Use side='kv' and leave out heads=, or use another operation.",
            )
