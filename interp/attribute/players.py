"""Players of an attribution game: parts of the conditioning that can be taken away.

A player is some token categories, positions or layers, or whatever a patch does. When it is
*absent*, a baseline takes its place. The choice of baseline matters as much as the method, so it is
always recorded in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from interp.errors import InterpError
from interp.patch import Patch, Where, mean, repad, swap, zero
from interp.patch.base import Operation
from interp.session import Session
from interp.text.categories import CATEGORIES, POOLED, selected
from interp.text.prompt import Prompt

Baseline = Prompt | str | Sequence[Prompt] | Callable[..., Patch]
Player = str | Sequence[str] | Sequence[int] | slice | Where | Patch
Players = Mapping[str, Player] | str | None


def absent(baseline: Baseline, prompts: Sequence[Prompt], names: Sequence[str]) -> Patch:
    """The patch that replaces these categories by the baseline.

    Example:
        >>> absent(b, [a], ("eot", "pad"))
        swap(('eot', 'pad'), donor='a photo of a goat', align='nearest')

    Args:
        baseline: a donor prompt (aligned to the nearest position of the same category); "zero";
            "mean" over the prompts, or a list of prompts to average over; "repad" with `!`, which
            changes only pads; or a function from category names to a patch.
        prompts: the prompts being attributed, for "mean".
        names: the categories; without any, the patch is empty.

    Raises:
        InterpError: for an unknown baseline, or a mean over a single prompt.
    """
    if not names:
        return Patch()
    if isinstance(baseline, Prompt):
        return swap(names, baseline, "nearest")
    if callable(baseline):
        return baseline(names)
    if baseline == "zero":
        return zero(names)
    if baseline == "repad":
        pads = tuple(name for name in names if name.rpartition(".")[2] == "pad")
        other = repad("!", uncond=False).operations
        return Patch(tuple(replace(one, categories=pads) for one in other)) if pads else Patch()
    over = prompts if baseline == "mean" else baseline
    if not isinstance(over, str) and len(over) > 1:
        return mean(names, over=list(over))
    raise InterpError(
        f"The baseline {baseline!r} was asked for.",
        "A baseline is a donor prompt, 'zero', 'repad', or 'mean' over at least two prompts.",
        "Pass one of them, a list of prompts to average over, or a function from category names to "
        "a patch.",
    )


def baseline_name(baseline: Baseline) -> str:
    """The name of a baseline in results: `donor 'a photo of a goat'`, `zero`."""
    if isinstance(baseline, Prompt):
        return f"donor {baseline.text!r}"
    if isinstance(baseline, str):
        return baseline
    if callable(baseline):
        return getattr(baseline, "__name__", repr(baseline))
    return f"mean of {len(baseline)} prompts"


def named_players(players: Players, prompts: Sequence[Prompt], tokenizer: Any) -> dict[str, Player]:
    """Players by name: the categories, the words of the prompt, or those given.

    Example:
        >>> named_players("words", [a], sd.pipe.tokenizer)
        {'Antique': (1,), 'Church': (2,), 'Poster': (3,), 'in': (4,), 'Berlin': (5,)}

    Raises:
        InterpError: words of several prompts, or positions claimed by several players.
    """
    if players is None and not any(prompt.segments for prompt in prompts):
        return {name: name for name in CATEGORIES}
    if players is None:
        names = (*CATEGORIES, POOLED)
        return {name: name for name in names if any(has(prompt, name) for prompt in prompts)}
    if isinstance(players, str):
        if players != "words" or len(prompts) != 1 or prompts[0].segments:
            raise InterpError(
                f"players={players!r} of {len(prompts)} prompts was asked for.",
                "By name there are only 'words', the words of a single prompt that CLIP alone "
                "encodes.",
                "Pass one prompt, or players as {name: categories, positions, Where or Patch}.",
            )
        return dict(words(prompts[0], tokenizer))
    given = dict(players)
    for prompt in prompts:
        taken: set[int] = set()
        for name, player in given.items():
            mine = set(positions(player, prompt) or ())
            if taken & mine:
                raise InterpError(
                    f"Player {name!r} cannot be positions {sorted(mine)} of {prompt!r}.",
                    f"Another player already has {sorted(taken & mine)}.",
                    "Assign every position to one player only.",
                )
            taken |= mine
    return given


def has(prompt: Prompt, name: str) -> bool:
    """Whether a prompt has positions of a category, as of "t5.pad", or a pooled embedding."""
    return prompt.pooled is not None if name == POOLED else bool(prompt.among(name).any())


def words(prompt: Prompt, tokenizer: Any) -> dict[str, tuple[int, ...]]:
    """The positions of every word of the prompt; repeated words are numbered.

    Example:
        >>> words(sd.encode("a goat and a unicorn"), sd.pipe.tokenizer)["a (2)"]
        (4,)
    """
    found: dict[str, tuple[int, ...]] = {}
    begun: list[int] = []
    for place in prompt.at("prompt").tolist():
        begun.append(place)
        # CLIP's vocabulary marks the token that ends a word.
        if tokenizer.convert_ids_to_tokens(int(prompt.ids[place])).endswith("</w>"):
            word, count = prompt.words[place], 1
            while (name := word if count == 1 else f"{word} ({count})") in found:
                count += 1
            found[name] = tuple(begun)
            begun = []
    if begun:
        found[prompt.words[begun[0]]] = tuple(begun)
    return found


def positions(player: Player, prompt: Prompt) -> list[int] | None:
    """The positions that a player stands for; None if it is a `Where` or a patch."""
    if isinstance(player, (Where, Patch)):
        return None
    if isinstance(player, slice):
        return list(range(len(prompt.ids)))[player]
    if isinstance(player, str):
        return prompt.at(player).tolist()
    if all(isinstance(part, str) for part in player):
        return prompt.at(tuple(map(str, player))).tolist()
    return [int(part) for part in player]


def without(
    players: Mapping[str, Player],
    missing: Sequence[str],
    session: Session,
    prompt: Prompt,
    prompts: Sequence[Prompt],
    baseline: Baseline,
) -> Patch:
    """The patch that removes these players.

    Example:
        >>> without({"pads": "pad", "up": Where(layers="up")}, ["up"], sd, a, [a], "zero")

    Categories are patched by name, so that the patch is readable; other positions by a donor, the
    prompt itself with the baseline's embeddings there; then come `Where`s and patches.
    """
    whole = [players[name] for name in missing]
    categories, places = [], []
    rest = Patch()
    for player in whole:
        where = positions(player, prompt)
        if isinstance(player, Patch):
            rest &= player
        elif isinstance(player, Where):
            rest &= Patch(
                tuple(
                    _at(operation, player)
                    for operation in absent(baseline, prompts, CATEGORIES).operations
                )
            )
        elif isinstance(player, str):
            categories.append(player)
        elif not isinstance(player, slice) and all(isinstance(part, str) for part in player):
            categories += map(str, player)
        elif where:
            places += where
    held = [name for name in selected(categories) if has(prompt, name)] if categories else []
    patch = absent(baseline, prompts, held)
    if places:
        patch &= _replaced(session, prompt, absent(baseline, prompts, CATEGORIES), places)
    return patch & rest


def _replaced(session: Session, prompt: Prompt, patch: Patch, places: Sequence[int]) -> Patch:
    """A patch that does what `patch` does, but only at these positions of the prompt."""
    held = [name for name in CATEGORIES if set(prompt.at(name).tolist()) & set(places)]
    chosen = torch.zeros(len(prompt.ids), 1, dtype=torch.bool, device=prompt.embeds.device)
    chosen[list(places)] = True
    mixed = torch.where(chosen, patch.embeds(prompt, session.pipe), prompt.embeds)
    return swap(held, replace(prompt, embeds=mixed))


def _at(operation: Operation, where: Where) -> Operation:
    return replace(operation, where=replace(where, uncond=operation.where.uncond))


def describe(players: Mapping[str, Player]) -> dict[str, Any]:
    """Players as JSON values, for provenance."""
    return {
        name: player.to_json() if isinstance(player, Patch) else repr(player)
        for name, player in players.items()
    }
