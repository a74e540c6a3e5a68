"""What a sweep is asked to do: checked before the first image, and comparable as plain JSON.

A sweep runs for hours and may be resumed days later, so errors that can be foreseen are raised at
once, and whatever determines its numbers is recorded in a form that can be compared.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from interp import results
from interp.errors import InterpError
from interp.patch import Patch
from interp.results.axes import PIXELS
from interp.session import Edit, Edits, Rewrite, Session
from interp.session.batches import labels
from interp.text.prompt import Prompt

BASELINE = "none"
#: Names that the dataset uses itself.
RESERVED = {
    *results.DIMS,
    *results.SPACE,
    *PIXELS,
    results.POSITION,
    *("patch", "guidance", "reference", "text", "tokens", "tokens_uncond", "word"),
    *("position_category", "segment"),
    *("applies", "done", "image", "timestep", "block", "n_heads", "height", "width", "resolution"),
}
#: Where a model was found decides about nothing; what its weights are does.
WHERE = ("id", "revision", "lora")
#: Other versions of these may give other numbers. The last is this package.
DECISIVE = ("torch", "diffusers", "transformers", "interp")


@dataclass(frozen=True, eq=False)
class Plan:
    """What all prompts of a sweep share. It is sent to workers, so it contains no model.

    Attributes:
        seeds: one image each.
        edits: patches and mitigations by name; the first is the baseline.
        guidance: guidance scales, an axis of the result; None for the session's own, without axis.
        metrics: by the name of their variable.
        recorders: what to record.
        images: whether to keep the images.
    """

    seeds: Sequence[int]
    edits: Mapping[str, Edit]
    guidance: Sequence[float] | None
    metrics: Mapping[str, Any]
    recorders: Sequence[Any]
    images: bool

    def __post_init__(self) -> None:
        if len(set(self.seeds)) < len(self.seeds) or self.guidance == ():
            raise InterpError(
                f"The seeds {list(self.seeds)} with guidance={self.guidance} were asked for.",
                "Seeds must be distinct, and there must be at least one guidance scale.",
                "Use seeds=10, and leave out guidance for the session's own.",
            )

    @property
    def rewrites(self) -> bool:
        """Whether some of the edits may change a prompt's tokens."""
        return any(isinstance(edit, Rewrite) for edit in self.edits.values())

    def applying(self, prompt: Prompt, unconditional: Prompt | None) -> list[str]:
        """The names of the edits that have something to edit.

        A prompt of 77 tokens has no pads: an edit of pads does not apply to it, and its cells stay
        empty.

        Args:
            prompt: the prompt.
            unconditional: the prompt of the unconditional rows, if there are any.
        """
        rows = [(prompt, False)]
        if unconditional is not None:
            rows.append((unconditional, True))
        return [
            name
            for name, edit in self.edits.items()
            if not isinstance(edit, Patch)
            or all(
                operation.idle
                or any(
                    operation.where.on_row(uncond)
                    and operation.reaches(operation.whose(row, prompt) or row)
                    for row, uncond in rows
                )
                for operation in edit.operations
            )
        ]


def distinct(plan: Plan, columns: Iterable[str]) -> None:
    """Make sure that variables and coordinates have distinct names.

    Raises:
        InterpError: two have the same name.
    """
    recorded = [recorder.name + tail for recorder in plan.recorders for tail in ("", "_uncond")]
    names = Counter([*RESERVED, *recorded, *plan.metrics, *columns])
    twice = sorted(name for name, count in names.items() if count > 1)
    if twice:
        raise InterpError(
            f"Metrics {list(plan.metrics)} and labels {list(columns)} were asked for.",
            f"The dataset would have two variables called {twice[0]!r}.",
            "Rename the metric or label: metrics={'sscd': ...}.",
        )


def named(patches: Edits) -> dict[str, Edit]:
    """Return the edits by name, the baseline first.

    Example:
        >>> list(named({"h": zero("pad")}))
        ['none', 'h']

    Raises:
        InterpError: two have the same name, or the baseline is not called "none".
    """
    names, edits = labels(patches)
    pairs = list(zip(names or [repr(edits[0])], edits, strict=True))
    others = [(name, edit) for name, edit in pairs if edit is not None]
    unpatched = {name for name, edit in pairs if edit is None and names is not None}
    found = {BASELINE: None, **dict(others)}
    if len(found) < 1 + len(others) or unpatched - {BASELINE}:
        raise InterpError(
            f"Patches called {', '.join(name for name, _ in pairs)} were asked for.",
            f"Names must be distinct, and {BASELINE!r} is the baseline, which is always included.",
            "Name the patches: patches={'h': ip.zero('pad'), ...}.",
        )
    return found


def rehearse(plan: Plan, prompts: Sequence[Prompt], unconditional: Prompt | None) -> None:
    """Try the patches on the prompts' embeddings, which takes milliseconds.

    Raises:
        InterpError: an edit is impossible (a donor can not be aligned), or applies to no prompt.
    """
    unused = set(plan.edits)
    for prompt in prompts:
        names = plan.applying(prompt, unconditional)
        unused -= set(names)
        for name in names:
            edit = plan.edits[name]
            for operation in edit.operations if isinstance(edit, Patch) else ():
                if operation.where.on_row(False) and bool(operation.positions(prompt).any()):
                    # Reencoding needs the text encoder, and always works.
                    operation.edit(prompt.embeds, prompt, lambda given, token: given)
    if unused:
        name = sorted(unused)[0]
        raise InterpError(
            f"The patch {name!r}, {plan.edits[name]!r}, was asked for.",
            f"It would touch no position of any of the {len(prompts)} prompts.",
            "Check its categories and fractions, or leave it out.",
        )


def facts(
    session: Session,
    plan: Plan,
    prompts: Sequence[Prompt],
    given: Sequence[str | Prompt],
    references: Sequence[Float[Tensor, "1 3 h w"] | None],
    columns: Mapping[str, Sequence[Any]],
) -> dict[str, Any]:
    """Return what determines the sweep's content, as plain JSON values.

    Args:
        session: runs the model.
        plan: what is done to every prompt.
        prompts: the encoded prompts.
        given: the same as passed by the caller; those that came encoded may have been edited, and
            are recorded with a hash.
        references: training images.
        columns: labels of the prompts.
    """
    patches = {
        name: None if edit is None else json.loads(edit.to_json())
        for name, edit in plan.edits.items()
    }
    encoded = [prompt.digest if isinstance(prompt, Prompt) else None for prompt in given]
    written = {
        **session.provenance(),
        "prompts": [prompt.text for prompt in prompts],
        "embeddings": encoded if any(encoded) else None,
        "references": [None if image is None else _sha256(image) for image in references]
        if any(image is not None for image in references)
        else None,
        "labels": dict(columns),
        "seeds": list(plan.seeds),
        # JSON objects are unordered; the axis is not.
        "patch": list(patches),
        "patches": patches,
        "trajectory": "own",
        "metrics": {name: _said(metric) for name, metric in plan.metrics.items()},
        "record": [_said(recorder) for recorder in plan.recorders],
        "images": plan.images,
    }
    if plan.guidance is not None:
        written["guidance"] = list(plan.guidance)
    return json.loads(json.dumps(written, default=repr))


def difference(before: Any, now: Any, name: str = "") -> str | None:
    """Return the first difference between two records of `facts` that may change the numbers.

    Example:
        >>> difference({"steps": 50}, {"steps": 20})
        'steps is 50 there and 20 here'

    The model's path, the index of a GPU, and packages that compute nothing are ignored.
    """
    if not name:
        before, now = _decisive(before), _decisive(now)
    if isinstance(before, dict) and isinstance(now, dict):
        keys: Iterable[Any] = dict.fromkeys([*before, *now])
        pairs = [(f"{name}.{key}" if name else key, before.get(key), now.get(key)) for key in keys]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(f"{name}[{i}]", *both) for i, both in enumerate(zip(before, now, strict=True))]
    elif isinstance(before, list) and isinstance(now, list) and len(str((before, now))) > 200:
        return f"there are {len(before)} {name} there and {len(now)} here"
    else:
        # NaN, a missing label, equals NaN.
        same = before == now or (before != before and now != now)
        return None if same else f"{name} is {before!r} there and {now!r} here"
    return next((found for key, a, b in pairs if (found := difference(a, b, key))), None)


def _decisive(written: Mapping[str, Any]) -> dict[str, Any]:
    model = {k: v for k, v in written.get("model", {}).items() if k not in WHERE}
    packages = {k: v for k, v in written.get("packages", {}).items() if k in DECISIVE}
    device = str(written.get("device", "")).partition(":")[0]
    return {**written, "model": model, "packages": packages, "device": device}


def _said(thing: Any) -> Any:
    """How a metric or recorder describes itself; its name if its repr contains an address."""
    if hasattr(thing, "provenance"):
        return thing.provenance()
    kind = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{kind.__module__}.{kind.__qualname__}" if " at 0x" in repr(thing) else repr(thing)


def _sha256(image: Float[Tensor, "1 3 h w"]) -> str:
    return hashlib.sha256(str(tuple(image.shape)).encode() + image.numpy().tobytes()).hexdigest()
