"""Exact Shapley values: what each part of the conditioning contributes, alone and with others.

Removing one category at a time shows what is necessary given all others; keeping one alone, what is
sufficient without any. Both mislead where categories can replace each other, like eot and its
copies in the pads. Shapley values average over all orders of removal and share out the total
exactly. Not for many players: n players take 2^n generations per seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from interp import results
from interp.attribute.games import COALITION, coalitions, names, solve
from interp.attribute.players import (
    Baseline,
    Players,
    baseline_name,
    describe,
    named_players,
    without,
)
from interp.attribute.values import Value, guidance, measure, of_prompt, value_name
from interp.results.intervals import bootstrap
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.text.prompt import Prompt


def shapley(
    session: Session,
    prompts: str | Prompt | Sequence[str | Prompt],
    baseline: Baseline = "zero",
    value: Value | None = None,
    seeds: Seeds = (0,),
    players: Players = None,
    *,
    trajectory: str = "own",
    level: float = 0.95,
) -> xr.Dataset:
    """Shapley values and interactions of token categories, or of any other players.

    Example:
        >>> copied = similarity(sscd, training_image)
        >>> phi = shapley(sd, a, baseline=b, value=copied, seeds=range(8))
        >>> phi.phi.mean(["prompt", "seed"]), phi.phi_interval
        >>> shapley(sd, a, players={"first": range(8, 20), "last": range(20, 77)})
        >>> shapley(sd, a, players={"down": Where(layers="down"), "up": Where(layers="up")})

    In every coalition the other players are absent: the baseline takes their place. All coalitions
    of a prompt and seed start from the same noise and share a batch.

    Args:
        session: pipeline and settings.
        prompts: one or several, texts or encoded.
        baseline: what absence means; see `players.absent`. CLIP is causal, so all prompts have the
            same sot, and with a donor its Shapley value is 0.
        value: what is shared out, see `values`; by default `guidance()`.
        seeds: as in `Session.run`; one generation per coalition each.
        players: the categories by default, with the `pooled` vector of transformers; "words" of a
            single prompt; or
            `{name: player}`, where a player is a category or several, positions, a `Where` (the
            baseline at all positions there), or a patch (what is done when it is absent).
        trajectory: as in `Session.run`.
        level: coverage of the intervals.

    Returns:
        In units of `value`: `phi(player, prompt, seed)` and `interaction(player, player_2, prompt,
        seed)`, each with the bootstrap interval of its mean over prompts and seeds,
        `..._interval(bound, ...)`; and the table `worth(coalition, prompt, seed)` with
        `member(coalition, player)`.

    Raises:
        InterpError: too many players, an unknown baseline, or positions claimed twice.

    Source: Shapley 1953; the interaction index of Grabisch & Roubens 1999. The interventions are
    those of Kim & No (arXiv 2605.02908), who remove categories one or two at a time.
    """
    encoded, seeds = session._prompts(prompts), chosen_seeds(seeds)
    value = guidance() if value is None else value
    who = named_players(players, encoded, session.pipe.tokenizer)
    inside = coalitions(len(who))
    worth = np.empty((len(inside), len(encoded), len(seeds)))
    with tqdm(total=len(encoded) * len(seeds), unit="game", disable=None) as bar:
        for row, prompt in enumerate(encoded):
            patches = {}
            for name, present in zip(names(list(who)), inside, strict=True):
                missing = [player for player, is_in in zip(who, present, strict=True) if not is_in]
                patch = without(who, missing, session, prompt, encoded, baseline)
                patches[name] = patch if patch.operations else None
            own = of_prompt(value, row)
            for column, seed in enumerate(seeds):
                worth[:, row, column] = measure(session, prompt, seed, patches, own, trajectory)
                bar.update()
    axes = (COALITION, "prompt", "seed")
    data = solve(xr.DataArray(worth, dims=axes), list(who)).assign_coords(
        prompt=range(len(encoded)),
        seed=list(seeds),
        text=("prompt", [prompt.text for prompt in encoded]),
    )
    for name in ("phi", "interaction"):
        data[f"{name}_interval"] = bootstrap(data[name], level)
    return results.stamp(
        data,
        **session.provenance(),
        method="shapley",
        baseline=baseline_name(baseline),
        value=value_name(value),
        players=describe(who),
        prompts=[prompt.text for prompt in encoded],
        seeds=list(seeds),
        trajectory=trajectory,
        level=level,
    )
