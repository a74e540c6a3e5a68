"""The report's answer: how many, what drives it, what removes it, at what cost.

Only arithmetic on a collected dataset, so that the words at the top of the page cannot contradict
the numbers below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr

from interp import results
from interp.report.assess import MEMORIZED
from interp.report.edits import MITIGATION, NONE, REMOVAL
from interp.report.words import label
from interp.results import intervals

SMALLEST = 0.05
"""If all removals together change similarity by less than this, nothing drives it."""


@dataclass(frozen=True)
class Effect:
    """The average effect of one edit.

    Attributes:
        copies: the share of memorized prompts' images that are still copies.
        kept: their mean similarity to the training image, with its 95 % interval.
        fidelity, ordinary_fidelity: CLIPScore of memorized prompts and of the others.
        diversity, ordinary_diversity: 1 minus the likeness of seeds, likewise.
        ordinary_kept: the similarity of the others' images to their unedited ones.
    """

    name: str
    label: str
    role: str
    call: str
    copies: float
    kept: tuple[float, float, float]
    fidelity: float
    ordinary_fidelity: float
    diversity: float
    ordinary_diversity: float
    ordinary_kept: float


@dataclass(frozen=True)
class Place:
    """Where the driver acts, measured by the effect of removing it in single layers and steps.

    Attributes:
        layer, third: where it acts most: a layer, and the "first", "middle" or "last" third of the
            steps.
        in_layer, in_third: the share of its effect there.
    """

    layer: str
    in_layer: float
    third: str
    in_third: float


@dataclass(frozen=True)
class Findings:
    """The findings at the top of the page.

    Attributes:
        total, memorized: the number of prompts, and of those with that verdict.
        listed: for each kind, how many of how many prompts are memorized.
        effects: every edit, the unedited images first.
        shares: each category's share of the removals' effect; empty if nothing drives it.
        best: the mitigation that leaves the fewest copies.
        place: where the driver acts.
    """

    total: int
    memorized: int
    listed: dict[str, tuple[int, int]]
    effects: tuple[Effect, ...]
    shares: dict[str, float]
    best: Effect | None
    place: Place | None

    @property
    def driver(self) -> str | None:
        """The category with the largest share."""
        return _largest(self.shares)

    @property
    def unedited(self) -> Effect:
        """The images without any edit."""
        return self.effects[0]


def find(data: xr.Dataset) -> Findings:
    """Return the findings of a collected dataset.

    Example:
        >>> found = find(data)
        >>> found.memorized, found.driver, found.best.label
        (8, 'pad', '“!” as padding and no end token')
    """
    guilty = data.verdict.values == MEMORIZED
    kinds = dict.fromkeys(data.kind.values.tolist())
    listed = {
        str(kind): (int((guilty & (of := data.kind.values == kind)).sum()), int(of.sum()))
        for kind in kinds
    }
    effects = tuple(_effect(data, str(name), guilty) for name in data.patch.values)
    mitigations = [effect for effect in effects if effect.role == MITIGATION]
    best = None
    if guilty.any() and mitigations:
        best = min(mitigations, key=lambda e: (e.copies, -np.nan_to_num(e.ordinary_kept)))
    shares = _shares(data, guilty)
    place = _place(data, guilty, _largest(shares))
    return Findings(len(guilty), int(guilty.sum()), listed, effects, shares, best, place)


def _largest(shares: Mapping[str, float]) -> str | None:
    return max(shares, key=lambda name: shares[name]) if shares else None


def _effect(data: xr.Dataset, name: str, guilty: np.ndarray) -> Effect:
    at = data.sel(patch=name)
    bad, good = at.isel(prompt=np.flatnonzero(guilty)), at.isel(prompt=np.flatnonzero(~guilty))
    measured = bad.kept.notnull()
    copies = (bad.kept >= results.provenance(data)["threshold"]).where(measured)
    found = intervals.mean(bad.kept.rename(edit_seed="seed")) if guilty.any() else None
    ends = tuple(np.nan if found is None else float(found[e]) for e in ("mean", "low", "high"))
    baseline = good.edit_similarity.sel(reference="baseline")

    def fidelity(of: xr.Dataset) -> float:
        return float(of.edit_fidelity.mean()) if "edit_fidelity" in of else np.nan

    return Effect(
        name,
        label(name),
        str(at.role.item()),
        str(at.edit.item()),
        float(copies.mean()),
        (ends[0], ends[1], ends[2]),
        fidelity(bad),
        fidelity(good),
        1 - float(bad.edit_alike.mean()),
        1 - float(good.edit_alike.mean()),
        float(baseline.mean()),
    )


def _shares(data: xr.Dataset, guilty: np.ndarray) -> dict[str, float]:
    phi = data.phi.isel(prompt=np.flatnonzero(guilty)).mean("prompt")
    total = float(phi.sum("player"))
    if not guilty.any() or bool(phi.isnull().any()) or total < SMALLEST:
        return {}
    return {str(name): float(phi.sel(player=name)) / total for name in phi.player.values}


def _place(data: xr.Dataset, guilty: np.ndarray, driver: str | None) -> Place | None:
    if driver is None:
        return None
    change = data.change.isel(prompt=np.flatnonzero(guilty)).sel(player=driver)
    size = abs(change.mean("prompt"))
    if not float(size.sum()) > 0:
        return None
    by_layer = size.sum("step") / size.sum()
    steps = data.sizes["step"]
    thirds = xr.DataArray([3 * step // steps for step in range(steps)], dims="step")
    by_third = [float(size.where(thirds == n, 0).sum() / size.sum()) for n in range(3)]
    where, when = int(np.argmax(by_layer.values)), int(np.argmax(by_third))
    third = ("first", "middle", "last")[when]
    return Place(str(data.layer.values[where]), float(by_layer[where]), third, by_third[when])


def removals(found: Findings) -> list[Effect]:
    """The edits compared in the summary figure: unedited, removals and mitigations.

    Example:
        >>> [effect.name for effect in removals(find(data))][:2]
        ['none', 'c']
    """
    order = (NONE, REMOVAL, MITIGATION)
    shown = [effect for effect in found.effects if effect.role in order]
    return sorted(shown, key=lambda effect: order.index(effect.role))
