"""From a choice to its patch and to the line of Python that makes the same image.

Both are made of one `Call`: what is shown to be copied is what was run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.denoiser.layers import BLOCKS, Site
from interp.errors import InterpError
from interp.explore.choice import NONE, OPERATIONS, Choice
from interp.patch import Patch, verbs
from interp.text.prompt import Prompt


@dataclass(frozen=True)
class Encoded:
    """A prompt among the arguments of a call; in Python `sd.encode('...')`."""

    prompt: Prompt

    def __repr__(self) -> str:
        return f"sd.encode({self.prompt.text!r})"


@dataclass(frozen=True)
class Call:
    """A verb with its arguments: a patch that can be made, and written down."""

    verb: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def patch(self) -> Patch:
        """The patch: `Call("zero", ("pad",), {}).patch()` is `ip.zero('pad')`.

        Raises:
            InterpError: whatever the verb raises.
        """
        given = [_plain(value) for value in self.arguments]
        named = {name: _plain(value) for name, value in self.options.items()}
        return getattr(verbs, self.verb)(*given, **named)

    def __repr__(self) -> str:
        given = [repr(value) for value in self.arguments]
        given += [f"{name}={value!r}" for name, value in self.options.items()]
        return f"ip.{self.verb}({', '.join(given)})"


def line(choice: Choice, call: Call | None) -> str:
    """The line of Python that makes the image of a choice, with `sd` the session.

    Example:
        >>> line(Choice("a goat"), Call("zero", ("pad",), {}))
        "sd.images('a goat', seeds=[0], patch=ip.zero('pad'))[0]"
    """
    patch = "" if call is None else f", patch={call!r}"
    return f"sd.images({choice.text!r}, seeds=[{choice.seed}]{patch})[0]"


def call(choice: Choice, layers: Sequence[Site], encode: Callable[[str], Prompt]) -> Call | None:
    """The call that makes the patch of a choice; None where nothing is patched.

    Example:
        >>> call(Choice("a goat", operation="zero"), ip.sites(pipe.unet), sd.encode)
        ip.zero('pad')

    Args:
        choice: what is chosen.
        layers: the model's.
        encode: from a donor's text to its prompt.

    Raises:
        InterpError: for an operation, layer or step that does not exist, and where nothing is left.
    """
    if choice.operation == NONE:
        return None
    arguments, options = _what(choice, encode)
    options |= place(choice.heads, layers)
    if choice.steps is not None:
        first, after = choice.steps
        options["steps"] = first if after == first + 1 else range(first, after)
    usual = "k" if choice.operation == "scale" else "kv"
    if choice.operation != "mask" and choice.side != usual:
        options["side"] = choice.side
    return Call(choice.operation, arguments, options)


def _what(choice: Choice, encode: Callable[[str], Prompt]) -> tuple[tuple, dict[str, Any]]:
    """Arguments and options of the verb, but for the place."""
    chosen = choice.categories[0] if len(choice.categories) == 1 else choice.categories
    if not chosen and choice.operation != "repad":
        raise InterpError(
            f"{choice.operation} was asked for on no category.",
            "It would change nothing.",
            "Choose one: click a token.",
        )
    match choice.operation:
        case "zero":
            return (chosen,), {} if choice.amount == 1 else {"fraction": choice.amount}
        case "mask":
            return (chosen,), {}
        case "swap":
            return (chosen,), {"donor": Encoded(encode(choice.donor)), "align": "nearest"}
        case "copy":
            several = choice.source in ("prompt", "pad")
            return (choice.source,), {"to": chosen} | ({"reduce": "mean"} if several else {})
        case "repad":
            return (choice.token,), {}
        case "scale":
            return (chosen, choice.amount), {}
        case "noise":
            return (chosen,), {"std": choice.amount, "seed": 0}
    raise InterpError(
        f"The operation {choice.operation!r} was asked for.",
        f"The explorer has {', '.join(OPERATIONS)}.",
        "Choose one of them; Python has more: interp.patch.",
    )


def place(
    heads: Sequence[tuple[str, Sequence[int]]] | None, layers: Sequence[Site]
) -> dict[str, Any]:
    """The options that say at which layers and heads, as shortly as possible.

    Example:
        >>> place([("mid.0", (0, 1))], ip.sites(pipe.unet))     # a block's only layer
        {'layers': 'mid'}
        >>> place([("mid.0", (1,))], ip.sites(pipe.unet))
        {'heads': {'mid.0': (1,)}}

    Raises:
        InterpError: for a layer that does not exist, or none.
    """
    if heads is None:
        return {}
    chosen = {name: tuple(sorted(set(numbers))) for name, numbers in heads if numbers}
    every = {site.name: tuple(range(site.heads)) for site in layers}
    if not chosen or not chosen.keys() <= every.keys():
        raise InterpError(
            f"A patch at the layers {', '.join(chosen) or 'none'} was asked for.",
            f"There are {', '.join(every)}.",
            "Choose at least one of them.",
        )
    if chosen == every:
        return {}
    if any(chosen[name] != every[name] for name in chosen):
        return {"heads": {name: chosen[name] for name in every if name in chosen}}
    named: list[str] = []
    for block in BLOCKS:
        mine = [site.name for site in layers if site.block == block]
        there = [name for name in mine if name in chosen]
        named += [block] if there and there == mine else there
    return {"layers": named[0] if len(named) == 1 else named}


def _plain(value: Any) -> Any:
    return value.prompt if isinstance(value, Encoded) else value
