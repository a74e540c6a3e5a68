"""Neurons that carry a memorized prompt: outputs of value projections, found in the manner of NeMo.

Value projections of cross-attention see the text alone, so a neuron's activation is known without
running the UNet. Neurons that are unusually active for the prompt are silenced together until the
prompt no longer decides what is denoised, and then given back, layer by layer and one by one, as
long as it stays so. What is left ends in a patch. Silencing conceals: that the image is gone from
the weights does not follow (Kowalczuk et al., arXiv 2507.16880).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp import results
from interp.attribute.likeness import ms_ssim, stretched
from interp.attribute.points import Points, chunks, clean_points, predict, rows_at_once
from interp.denoiser.hooks import is_fused
from interp.denoiser.layers import Selector, Site, select, sites
from interp.errors import InterpError
from interp.patch import Patch, apply, silence
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.text.prompt import Prompt

LAYERS = ("down", "mid")
THRESHOLD = 0.428
START, END, STEP = 5.0, 1.0, 0.25


@torch.no_grad()
def activations(
    session: Session, prompts: str | Prompt | Sequence[str | Prompt], layers: Selector = LAYERS
) -> xr.DataArray:
    """How active every neuron of the value projections is, averaged over the prompt's 77 tokens.

    Example:
        >>> usual = activations(sd, captions)
        >>> usual.mean("prompt"), usual.std("prompt")

    Returns:
        `activation(prompt, layer, neuron) = mean over positions of |W_V e|`, NaN where a layer has
        fewer neurons. The UNet does not run.

    Source: Hintersdorf et al., NeurIPS 2024 (arXiv 2406.02366), section 4.
    """
    encoded = session._prompts(prompts)
    places = select(sites(session.pipe.unet), layers)
    parts = [_values(session, site, encoded) for site in places]
    most = max(part.shape[-1] for part in parts)
    found = np.full((len(encoded), len(places), most), np.nan, dtype=np.float32)
    for column, part in enumerate(parts):
        found[:, column, : part.shape[-1]] = reduce(
            part.abs(), "prompt position neuron -> prompt neuron", "mean"
        ).cpu()
    return xr.DataArray(
        found,
        {
            "prompt": range(len(encoded)),
            "text": ("prompt", [prompt.text for prompt in encoded]),
            "layer": [site.name for site in places],
            "neuron": range(most),
        },
        ("prompt", "layer", "neuron"),
        name="activation",
    )


def likeness(session: Session, prompt: str | Prompt, seeds: Seeds = range(10)) -> xr.DataArray:
    """How alike the first noise predictions of different seeds are: near 1 for memorized prompts.

    Example:
        >>> controls = [float(likeness(sd, text).max()) for text in captions]
        >>> threshold = np.mean(controls) + np.std(controls)      # NeMo's, for another model

    Returns:
        `(seed, seed_2)`: multi-scale structural similarity of `eps_c - x_T` at the first step,
        each channel stretched to [0, 1]; NaN on the diagonal.
    """
    (encoded,) = session._prompts(prompt)
    points = clean_points(session, encoded, chosen_seeds(seeds), 0)
    return _pairs(points, points.eps_c)


def find_neurons(
    session: Session,
    prompt: str | Prompt,
    usual: xr.DataArray,
    *,
    seeds: Seeds = range(10),
    threshold: float = THRESHOLD,
) -> xr.Dataset:
    """The neurons that must be silenced for the prompt to lose its hold on the first step.

    Example:
        >>> found = find_neurons(sd, a, usual=activations(sd, captions))
        >>> shield = silencing(found)
        >>> sd.images(a, seeds=range(4), patch=shield)

    1. Neurons more than theta deviations from their mean over other prompts, and the k most active
       of each layer, are silenced. From theta = 5 and k = 0, theta falls by 0.25 and k grows by 1
       until, of the seeds that look memorized, none predicts what it predicted before, to within
       `threshold`; or until theta = 1, and then what was reached is the threshold of step 2.
    2. Layers, deepest first, and then single neurons are given back, each for good if all seeds
       stay below the threshold.

    Args:
        session: pipeline and settings.
        prompt: a memorized prompt.
        usual: `activations` of other prompts, which also name the layers that are searched.
        seeds: noises on which it is judged.
        threshold: of multi-scale structural similarity; the authors' is the mean plus one deviation
            of `likeness` over unmemorized captions of SD 1.4, so take one of your own model.

    Returns:
        `silenced(layer, neuron)`, `candidate(layer, neuron)` of step 1, `z(layer, neuron)`, and
        `similarity(stage)` before, after step 1 and at the end. `silencing` makes the patch.

    Raises:
        InterpError: if no two seeds are alike (the prompt does not look memorized), or `usual` has
            fewer than two prompts.

    Source: Hintersdorf et al., NeurIPS 2024. What their code does differently: it runs the UNet
    twice and compares predictions at the second timestep on the noise of the first, so that their
    thresholds are of another quantity; it counts neurons that both rules select twice, so that
    giving one back changes nothing; and its hooks outlive an exception.
    """
    (encoded,) = session._prompts(prompt)
    if usual.sizes.get("prompt", 0) < 2:
        raise InterpError(
            "Neurons were to be found by how unusual their activations are.",
            f"The usual ones are of {usual.sizes.get('prompt', 0)} prompts.",
            "Pass activations(sd, captions) of many prompts, the more the better.",
        )
    seeds = chosen_seeds(seeds)
    points = clean_points(session, encoded, seeds, 0)
    pairs = _pairs(points, points.eps_c)
    alike = [row for row in range(len(seeds)) if bool((pairs[row] > threshold).any())]
    if not alike:
        raise InterpError(
            f"Neurons that memorize {encoded!r} were to be found.",
            f"Its noise predictions are alike to {float(pairs.max()):.3f} at most, the threshold "
            f"is {threshold:.3f}: it does not look memorized.",
            "Choose another prompt, more seeds, or a threshold from `likeness` of controls.",
        )
    search = _Search(session, points[alike])
    active = activations(session, encoded, list(usual.layer.values)).isel(prompt=0, drop=True)
    z = (active - usual.mean("prompt")) / usual.std("prompt")
    chosen, reached = _candidates(search, z, active, threshold)
    kept = _refined(search, chosen, max(threshold, reached))
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


Neurons = Mapping[str, tuple[int, ...]]


@dataclass
class _Search:
    """Predictions with neurons silenced, beside those without."""

    session: Session
    points: Points
    rows: int = 0
    known: dict[tuple, float] = field(default_factory=dict)

    def similarity(self, neurons: Neurons) -> float:
        """The largest similarity, over seeds, of the predictions with and without the neurons."""
        key = tuple((name, numbers) for name, numbers in neurons.items() if numbers)
        if not key:
            return 1.0
        if key not in self.known:
            self.known[key] = self._similarity(silence(neurons))
        return self.known[key]

    @torch.no_grad()
    def _similarity(self, patch: Patch) -> float:
        found = []
        pipe, prompt = self.session.pipe, self.points.prompt
        for rows in chunks(len(self.points), rows_at_once(self.session)):
            part = self.points[rows]
            with apply(pipe, [(prompt, patch)], guided=False):
                eps_c = predict(self.session, part, prompt.embeds)
            before, after = (stretched(eps - part.latents) for eps in (part.eps_c, eps_c))
            found.append(ms_ssim(before, after))
        self.rows += len(self.points)
        return float(torch.cat(found).max())


def _candidates(
    search: _Search, z: xr.DataArray, active: xr.DataArray, threshold: float
) -> tuple[Neurons, float]:
    """Step 1: enough unusual neurons, and the similarity that silencing them leaves."""
    most = int(active.notnull().sum("neuron").min())
    for number in range(round((START - END) / STEP) + 1):
        theta, k = START - STEP * number, min(number, most)
        chosen = {}
        for name in map(str, z.layer.values):
            unusual = np.flatnonzero(abs(z.sel(layer=name).values) > theta)
            rank = np.argsort(-np.nan_to_num(active.sel(layer=name).values, nan=-1.0))
            # One set: a neuron that both rules select is one neuron.
            chosen[name] = tuple(sorted({*unusual.tolist(), *rank[:k].tolist()}))
        similarity = search.similarity(chosen)
        if similarity <= threshold:
            break
    return chosen, similarity


def _refined(search: _Search, chosen: Neurons, threshold: float) -> Neurons:
    """Step 2: layers and neurons given back where they are not needed."""
    kept = dict(chosen)
    singles = sum(map(len, kept.values()))
    with tqdm(total=len(kept) + singles, unit="neuron", disable=None) as bar:
        for name in reversed(list(kept)):
            fewer = {**kept, name: ()}
            if search.similarity(fewer) <= threshold:
                kept = fewer
            bar.update()
        for name in list(kept):
            for neuron in kept[name]:
                rest = tuple(other for other in kept[name] if other != neuron)
                if search.similarity({**kept, name: rest}) <= threshold:
                    kept[name] = rest
                bar.update()
    return kept


def _values(
    session: Session, site: Site, prompts: Sequence[Prompt]
) -> Float[Tensor, "prompt position neuron"]:
    attention = session.pipe.unet.get_submodule(site.path)
    text = torch.stack([prompt.embeds for prompt in prompts]).to(session.pipe.unet.dtype)
    if is_fused(attention):
        return attention.to_kv(text).chunk(2, dim=-1)[1].float()
    return attention.to_v(text).float()


def _pairs(points: Points, eps_c: Float[Tensor, "row c h w"]) -> xr.DataArray:
    maps = stretched(eps_c - points.latents)
    count = len(maps)
    one = repeat(maps, "a c h w -> (a b) c h w", b=count)
    other = repeat(maps, "b c h w -> (a b) c h w", a=count)
    found = rearrange(ms_ssim(one, other), "(a b) -> a b", a=count).cpu().numpy()
    np.fill_diagonal(found, np.nan)
    seeds = list(points.seeds)
    return xr.DataArray(found, {"seed": seeds, "seed_2": seeds}, ("seed", "seed_2"))


def _marks(like: xr.DataArray, neurons: Neurons) -> xr.DataArray:
    marks = xr.zeros_like(like, dtype=bool)
    for name, numbers in neurons.items():
        marks.loc[{"layer": name, "neuron": list(numbers)}] = True
    return marks
