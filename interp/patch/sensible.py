"""Which operations make sense on which pipelines, and why others do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from interp.denoiser.epsilon import FLOW, prediction
from interp.errors import InterpError
from interp.patch.base import Operation
from interp.patch.operations import Copy, Mask
from interp.text.categories import POOLED
from interp.transformer.family import family

REFUSED: dict[str, Callable[[Operation], bool]] = {
    "single neurons are silenced in a UNet's value projections": lambda o: o.EDITS == "values",
    "keys and values are not linear in the embeddings: heads= is for mask, and side= for nothing": (
        lambda o: (o.where.heads is not None and o.EDITS != "keys") or o.where.side != "kv"
    ),
    "the pooled vector is no position: it has no layers, is no key, and nothing is copied to it": (
        lambda o: POOLED in o.categories
        and (o.where.layers is not None or isinstance(o, Mask | Copy))
    ),
}
"""Why an operation can not be on a transformer."""


def must_make_sense(operations: Sequence[Operation], pipe: Any) -> None:
    """Raise for operations that are not what they are elsewhere on this pipeline.

    Example:
        >>> must_make_sense(zero("pooled").operations, unet_pipeline)     # raises

    Raises:
        InterpError: naming the operation and why.
    """
    known = family(pipe)
    for operation in operations:
        if known is None:
            pooled = POOLED in operation.categories
            reasons = ["its pooled embedding is no input that is patched"] if pooled else []
        else:
            reasons = [reason for reason, holds in REFUSED.items() if holds(operation)]
            if getattr(operation, "until", None) and prediction(pipe.scheduler) == FLOW:
                reasons.append("guidance begins at 0, because the first noise is known, and falls "
                               "to no first minimum")  # fmt: skip
        if reasons:
            raise InterpError(
                f"{operation!r} was to be put on a {type(pipe).__name__}.",
                f"There {reasons[0]}.",
                "Say side='kv' and leave out heads=, or use another operation.",
            )
