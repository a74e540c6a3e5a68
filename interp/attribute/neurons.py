"""Neurons that carry a memorized prompt: outputs of value projections, found in the manner of NeMo.

Value projections of cross-attention see the text alone, so a neuron's activation is known without
running the UNet. Neurons that are unusually active for the prompt are silenced together until the
prompt no longer decides what is denoised, and then given back, layer by layer and one by one, as
long as it stays so. What is left ends in a patch. Silencing conceals: that the image is gone from
the weights does not follow (Kowalczuk et al., arXiv 2507.16880).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

import numpy as np
import torch
import xarray as xr
from einops import repeat

from interp import results
from interp.attribute.activations import activations
from interp.attribute.likeness import ms_ssim, stretched
from interp.attribute.neuron_search import THETAS, Neurons, candidates, refined
from interp.attribute.points import Points, chunks, clean_points, predict, rows_at_once
from interp.denoiser.epsilon import alpha_bar
from interp.errors import InterpError
from interp.patch import Patch, apply, silence
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.text.prompt import Prompt

THRESHOLD = 0.428


def likeness(
    session: Session,
    prompt: str | Prompt,
    seeds: Seeds = range(10),
    *,
    timestep: int = 1,
    data_range: float | None = None,
) -> xr.DataArray:
    """How alike the first noise predictions of different seeds are: near 1 for memorized prompts.

    Example:
        >>> controls = [float(likeness(sd, text).max()) for text in captions]
        >>> threshold = np.mean(controls) + np.std(controls)      # NeMo's, for another model

    Args:
        session, prompt, seeds: what is denoised, and from which noise.
        timestep: which of the run's timesteps the UNet is told, of the first one's noise: 1 in the
            authors' code, 0 in their paper; where there is one only, that.
        data_range: None as in the authors' code, or 1; see `ms_ssim`.

    Returns:
        `(seed, seed_2)`: multi-scale structural similarity of `eps_c - x_T`, each channel stretched
        to [0, 1]; NaN on the diagonal.
    """
    (encoded,) = session._prompts(prompt)
    return _pairs(_first(session, encoded, chosen_seeds(seeds), timestep), data_range)


def find_neurons(
    session: Session,
    prompt: str | Prompt,
    usual: xr.DataArray,
    *,
    seeds: Seeds = range(10),
    threshold: float = THRESHOLD,
    thetas: Sequence[float] = THETAS,
    once: bool = False,
    refine: bool = True,
    timestep: int = 1,
    data_range: float | None = None,
) -> xr.Dataset:
    """The neurons to silence so that the prompt no longer fixes the first step's prediction.

    Example:
        >>> found = find_neurons(sd, a, usual=activations(sd, captions))
        >>> sd.images(a, seeds=range(4), patch=silencing(found))

    1. Silence neurons more than theta deviations from their mean over other prompts, and the k most
       active of each layer. From theta = 5 and k = 0, theta falls by 0.25 and k grows by 1 until no
       seed that looks memorized still predicts what it did, to within `threshold`; or until
       theta = 1.25, and then the similarity reached is the threshold of step 2.
    2. Restore layers, then single neurons, deepest first, and keep each restored if all seeds stay
       below the threshold.

    Args:
        session, prompt: pipeline and settings, and a memorized prompt.
        usual: `activations` of other prompts, which also name the layers that are searched.
        seeds: initial noises to judge by.
        threshold: of multi-scale structural similarity; the authors' is the mean plus one deviation
            of `likeness` over unmemorized captions of SD 1.4, so take one of your own model.
        thetas: tried in turn, the authors' by default; their code stops before theta = 1.
        once: count a neuron that both rules select once. The authors' code lists it twice and gives
            one entry back at a time, so that after a search that ended at its last theta, where
            nothing may become more alike, it cannot be given back.
        refine: False leaves out step 2, which takes nearly all of the UNet rows.
        timestep, data_range: as in `likeness`. Another choice needs another threshold.

    Returns:
        `silenced(layer, neuron)`, `candidate(layer, neuron)` of step 1, `z(layer, neuron)`, and
        `similarity(stage)` before, after step 1 and at the end. `silencing` makes the patch.

    Raises:
        InterpError: no two seeds are alike (the prompt does not look memorized), `usual` has fewer
            than two prompts, or `timestep` is out of range.

    Source: Hintersdorf et al., NeurIPS 2024, and its code, which differs from the paper in
    `thetas`, `once` and `timestep`, and whose hooks outlive an exception.
    """
    (encoded,) = session._prompts(prompt)
    if usual.sizes.get("prompt", 0) < 2:
        raise InterpError(
            "Cannot tell which neurons are unusually active.",
            f"`usual` holds the activations of {usual.sizes.get('prompt', 0)} prompts.",
            "Pass activations(sd, captions) of many prompts, the more the better.",
        )
    seeds = chosen_seeds(seeds)
    points = _first(session, encoded, seeds, timestep)
    pairs = _pairs(points, data_range)
    alike = [row for row in range(len(seeds)) if bool((pairs[row] > threshold).any())]
    if not alike:
        raise InterpError(
            f"The neurons that memorize {encoded!r} were asked for.",
            f"Its noise predictions are at most {float(pairs.max()):.3f} alike, the threshold "
            f"is {threshold:.3f}: it does not look memorized.",
            "Choose another prompt, more seeds, or a threshold from `likeness` of controls.",
        )
    search = _Search(session, points[alike], data_range)
    active = activations(session, encoded, list(usual.layer.values)).isel(prompt=0, drop=True)
    z = (active - usual.mean("prompt")) / usual.std("prompt", ddof=1)
    chosen, reached = candidates(search.similarity, z, active, threshold, thetas, once)
    kept = refined(search.similarity, chosen, max(threshold, reached)) if refine else chosen
    data = xr.Dataset(
        {
            "silenced": _marks(z, kept),
            "candidate": _marks(z, chosen),
            "z": z,
            "similarity": ("stage", [1.0, reached, search.similarity(kept)]),
        },
        coords={"stage": ["before", "candidates", "refined"]},
    )
    data.attrs["unet_rows"] = points.spent + search.rows
    return results.stamp(
        data,
        **session.provenance(),
        method="find_neurons",
        prompts=[encoded.text],
        seeds=list(seeds),
        seeds_alike=[seeds[row] for row in alike],
        threshold=threshold,
        thetas=list(thetas),
        once=once,
        refine=refine,
        timestep=float(points.timestep[0]),
        data_range=data_range,
        usual_prompts=usual.sizes["prompt"],
    )


def silencing(found: xr.Dataset) -> Patch:
    """The patch that silences what `find_neurons` found.

    Example:
        >>> Patch.from_json(silencing(found).to_json()) == silencing(found)
        True
    """
    marks = found.silenced.transpose("layer", "neuron").values
    names = map(str, found.layer.values)
    return silence(
        {name: np.flatnonzero(row).tolist() for name, row in zip(names, marks, strict=True)}
    )


@dataclass
class _Search:
    """Predictions with neurons silenced, beside those without."""

    session: Session
    points: Points
    data_range: float | None
    rows: int = 0
    known: dict[tuple, float] = field(default_factory=dict)

    def similarity(self, neurons: Neurons) -> float:
        """The largest similarity, over seeds, of the predictions with and without the neurons."""
        key = tuple((name, tuple(sorted(set(of)))) for name, of in neurons.items() if of)
        if not key:
            return 1.0
        if key not in self.known:
            self.known[key] = self._similarity(silence(dict(key)))
        return self.known[key]

    @torch.no_grad()
    def _similarity(self, patch: Patch) -> float:
        found = []
        pipe, prompt = self.session.pipe, self.points.prompt
        for rows in chunks(len(self.points), rows_at_once(self.session)):
            part = self.points[rows]
            with apply(pipe, [(prompt, patch)], guided=False):
                eps_c = predict(self.session, part, prompt.embeds)
            found.append(stretched(eps_c - part.latents))
        before = stretched(self.points.eps_c - self.points.latents)
        self.rows += len(self.points)
        return float(ms_ssim(before, torch.cat(found), self.data_range).max())


@torch.no_grad()
def _first(session: Session, prompt: Prompt, seeds: Sequence[int], timestep: int) -> Points:
    """The noise of every seed, and what is predicted of it at this timestep."""
    points = clean_points(session, prompt, seeds, 0)
    scheduler = copy.deepcopy(session.pipe.scheduler)
    scheduler.set_timesteps(session.steps, device=points.latents.device)
    calls = len(scheduler.timesteps)
    if not 0 <= timestep < max(2, calls):
        raise InterpError(
            f"Noise predictions at timestep number {timestep} were asked for.",
            f"A run of this session has {calls}, counted from 0.",
            "Take 1, as NeMo's code does, or 0, as its paper says.",
        )
    told = scheduler.timesteps[min(timestep, calls - 1)].float()
    if bool(points.timestep[0] == told):
        return points
    points = replace(
        points,
        timestep=repeat(told, "-> row", row=len(points)),
        alpha_bar=(alpha_bar(scheduler, float(told)),) * len(points),
        spent=points.spent + len(points),
    )
    pieces = [points[rows] for rows in chunks(len(points), rows_at_once(session))]
    eps_c = torch.cat([predict(session, piece, prompt.embeds) for piece in pieces])
    return replace(points, eps_c=eps_c)


def _pairs(points: Points, data_range: float | None) -> xr.DataArray:
    maps, seeds = stretched(points.eps_c - points.latents), list(points.seeds)
    found = np.full((len(maps), len(maps)), np.nan)
    pairs = np.array(list(combinations(range(len(maps)), 2)), dtype=int)
    if len(pairs):
        # All at once, as the authors do: their data range is taken over all pairs.
        values = ms_ssim(maps[pairs[:, 0]], maps[pairs[:, 1]], data_range).cpu().numpy()
        found[pairs[:, 0], pairs[:, 1]] = found[pairs[:, 1], pairs[:, 0]] = values
    return xr.DataArray(found, {"seed": seeds, "seed_2": seeds}, ("seed", "seed_2"))


def _marks(like: xr.DataArray, neurons: Neurons) -> xr.DataArray:
    marks = xr.zeros_like(like, dtype=bool)
    for name, numbers in neurons.items():
        marks.loc[{"layer": name, "neuron": list(numbers)}] = True
    return marks
