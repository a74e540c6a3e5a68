"""Attributions to the 77 embeddings: gradients, ablations and sampled Shapley values, by captum.

For questions that categories are too coarse for. All methods share one value, averaged over points
of the clean trajectory, and one baseline. Gradients are summed over channels. Ablations and Shapley
values see 77 switches between prompt and baseline: given grouped features, captum would assign each
channel the value of its whole group, and the sum would overcount.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from captum.attr import (
    FeatureAblation,
    InputXGradient,
    IntegratedGradients,
    ShapleyValueSampling,
)
from einops import rearrange, reduce, repeat
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from interp import results
from interp.attribute.patching import GRAPH
from interp.attribute.players import Baseline, absent, baseline_name
from interp.attribute.points import Points, chunks, clean_points, predict, rows_at_once
from interp.attribute.values import NoiseValue, Value, guidance, value_name
from interp.errors import InterpError
from interp.patch.where import Steps
from interp.results.axes import POSITION
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.session.settings import of_unet
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt

BY = "by"
"""The axis of methods, because `method` is already an argument of `sel`."""
ABLATED = 16
"""Coalitions that captum evaluates at once; the memory budget splits them further."""
METHODS = ("integrated_gradients", "gradient_x_input", "ablation", "shapley")


def tokens(
    session: Session,
    prompts: str | Prompt | Sequence[str | Prompt],
    methods: str | Sequence[str] = METHODS,
    baseline: Baseline = "zero",
    *,
    value: Value | None = None,
    seeds: Seeds = (0,),
    steps: Steps | str = 0,
    points: int = 32,
    samples: int = 25,
    sampling_seed: int = 0,
) -> xr.Dataset:
    """The contribution of each of the 77 embeddings to a value of the noise predictions.

    Example:
        >>> found = tokens(sd, a, ["integrated_gradients", "ablation"], baseline=b, seeds=range(4))
        >>> found.attribution.groupby("category").sum()

    The value is averaged over the seeds and steps, on the clean trajectory.

    Args:
        session: pipeline and settings.
        prompts: one or several, texts or encoded.
        methods: "integrated_gradients" from the baseline to the prompt; "gradient_x_input", the
            gradient times (prompt - baseline); "ablation", the value lost when one position is
            replaced by the baseline; "shapley", sampled over permutations of positions.
        baseline: see `players.absent`.
        value: `guidance()` by default.
        seeds: as in `Session.run`.
        steps: steps of the trajectory; by default only the first, which needs no run.
        points: points on the path of integrated gradients.
        samples: permutations for "shapley"; each costs one row per position, seed and step.
        sampling_seed: the seed of those permutations.

    Returns:
        `attribution(by, prompt, position)`, and the value of both ends, `value(prompt)` and
        `value_baseline(prompt)`. Integrated gradients and Shapley values sum to their difference,
        the former up to discretisation error. `word` and `category` are coordinates on
        `(prompt, position)`.

    Raises:
        InterpError: a method is unknown, or the value is not one of single noise predictions.

    Source: Sundararajan et al. 2017 (integrated gradients), Castro et al. 2009 (sampling), as
    implemented in captum.
    """
    chosen = [methods] if isinstance(methods, str) else list(methods)
    value = guidance() if value is None else value
    if not chosen or not set(chosen) <= set(METHODS) or not isinstance(value, NoiseValue):
        raise InterpError(
            f"Attributions of {value_name(value)} by {chosen} were asked for.",
            f"Methods are {', '.join(METHODS)}; values are functions of noise predictions.",
            "Choose among them, with guidance() or noise_value(f).",
        )
    of_unet(session, "Attribution of single tokens")
    encoded, seeds = session._prompts(prompts), chosen_seeds(seeds)
    found, ends = [], []
    for prompt in tqdm(encoded, unit="prompt", disable=None):
        start = absent(baseline, encoded, _held(prompt)).embeds(prompt, session.pipe).float()
        game = _Game(session, clean_points(session, prompt, seeds, steps), value)
        found.append(
            [
                _attribute(game, name, prompt, start, points, samples, sampling_seed)
                for name in chosen
            ]
        )
        with torch.no_grad():
            ends.append(game(torch.stack([prompt.embeds.float(), start])).cpu().numpy())
    data = xr.Dataset(
        {
            "attribution": (("prompt", BY, POSITION), np.array(found)),
            "value": ("prompt", np.array(ends)[:, 0]),
            "value_baseline": ("prompt", np.array(ends)[:, 1]),
        },
        coords={BY: chosen, **_positions(encoded)},
    )
    return results.stamp(
        data.transpose(BY, ...),
        **session.provenance(),
        method="tokens",
        baseline=baseline_name(baseline),
        value=value_name(value),
        prompts=[prompt.text for prompt in encoded],
        seeds=list(seeds),
        path_points=points,
        samples=samples,
        sampling_seed=sampling_seed,
    )


def significance(
    session: Session,
    prompts: str | Prompt | Sequence[str | Prompt],
    *,
    seeds: Seeds = (0,),
    steps: Steps | str = "all",
) -> xr.Dataset:
    """Wen et al.'s token significance: how strongly guidance depends on each embedding.

    Example:
        >>> significance(sd, a, seeds=range(4)).significance.mean("step").sel(position=slice(1, 7))

    `sig_i = | d mean over seeds of |eps_c - eps_u| / d e_i |`, for the embeddings given to the
    UNet, at every step of the clean trajectory. A magnitude: it has no sign, and does not sum to
    anything.

    Returns:
        `significance(prompt, step, position)`, with `word` and `category` of every position.

    Source: Wen et al., ICLR 2024 (arXiv 2407.21720), section 4.2. Their code puts the conditional
    row first, where its own sampler expects the unconditional one, so every step after the first
    follows a trajectory of negative guidance; it takes one norm over a batch of n images, and
    averages over 2n rows a gradient that only the last row has. Here each image has its own norm
    and contributes its own gradient.
    """
    of_unet(session, "The significance of single tokens")
    encoded, seeds = session._prompts(prompts), chosen_seeds(seeds)
    found = []
    for prompt in tqdm(encoded, unit="prompt", disable=None):
        points = clean_points(session, prompt, seeds, steps)
        norms = torch.zeros(len(points.steps), len(prompt.embeds))
        for column, step in enumerate(points.steps):
            rows = [row for row, of in enumerate(points.step) if of == step]
            gradient = _gradient(session, points[rows], prompt.embeds)
            norms[column] = torch.linalg.vector_norm(gradient, dim=-1)
        found.append(norms.numpy())
    data = xr.Dataset(
        {"significance": (("prompt", "step", POSITION), np.stack(found))},
        coords={"step": list(points.steps), **_positions(encoded)},
    )
    return results.stamp(
        data,
        **session.provenance(),
        method="significance",
        prompts=[prompt.text for prompt in encoded],
        seeds=list(seeds),
    )


class _Game:
    """The value as a function of the conditional embeddings, averaged over points."""

    def __init__(self, session: Session, points: Points, value: NoiseValue) -> None:
        self.session, self.points, self.value = session, points, value

    def __call__(self, embeds: Float[Tensor, "row position channel"]) -> Float[Tensor, " row"]:
        most = self.at_once(embeds.requires_grad)
        parts = [self._mean(embeds[list(rows)]) for rows in chunks(len(embeds), most)]
        return torch.cat(parts)

    def at_once(self, gradient: bool) -> int:
        """How many embeddings fit into the session's memory budget."""
        rows = rows_at_once(self.session) // (GRAPH if gradient else 1)
        return max(1, rows // len(self.points))

    def _mean(self, embeds: Tensor) -> Tensor:
        count, points = len(embeds), self.points
        text = repeat(embeds, "row ... -> (row point) ...", point=len(points))
        eps_c = predict(self.session, points, text, copies=count)
        eps_u = repeat(points.eps_u, "point ... -> (row point) ...", row=count)
        return reduce(self.value.at(eps_c, eps_u), "(row point) -> row", "mean", row=count)


def _attribute(
    game: _Game,
    method: str,
    prompt: Prompt,
    baseline: Float[Tensor, "position channel"],
    points: int,
    samples: int,
    seed: int,
) -> np.ndarray:
    """One number for each position."""
    embeds = rearrange(prompt.embeds.float(), "position channel -> 1 position channel")
    base = rearrange(baseline, "position channel -> 1 position channel")
    if method == "integrated_gradients":
        # Within one call all graphs would be kept until the end.
        parts = IntegratedGradients(game).attribute(
            embeds, base, n_steps=points, internal_batch_size=game.at_once(gradient=True)
        )
        return _summed(parts)
    if method == "gradient_x_input":
        # Captum's version has no baseline, so the input is the difference from it.
        shifted = InputXGradient(lambda difference: game(base + difference))
        return _summed(shifted.attribute((embeds - base).requires_grad_()))

    def switched(on: Tensor) -> Tensor:
        chosen = rearrange(on, "row position -> row position 1") > 0
        return game(torch.where(chosen, embeds, base))

    on = torch.ones(1, embeds.shape[1], device=embeds.device)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        # Captum draws from the global generator; its state is restored.
        torch.manual_seed(seed)
        if method == "ablation":
            found = FeatureAblation(switched).attribute(on, perturbations_per_eval=ABLATED)
        else:
            found = ShapleyValueSampling(switched).attribute(
                on, n_samples=samples, perturbations_per_eval=ABLATED
            )
    return rearrange(found, "1 position -> position").cpu().numpy()


def _gradient(
    session: Session, points: Points, embeds: Float[Tensor, "position channel"]
) -> Float[Tensor, "position channel"]:
    """Gradient of the mean norm of the guidance over points that share one embedding."""
    leaf = embeds.detach().clone().float().requires_grad_()
    total = torch.zeros_like(leaf)
    for rows in chunks(len(points), max(1, rows_at_once(session) // GRAPH)):
        part = points[rows]
        with torch.enable_grad():
            norms = guidance().at(predict(session, part, leaf), part.eps_u)
        total += torch.autograd.grad(norms.sum(), leaf)[0]
    return (total / len(points)).cpu()


def _summed(parts: Float[Tensor, "1 position channel"]) -> np.ndarray:
    return reduce(parts.detach(), "1 position channel -> position", "sum").cpu().numpy()


def _held(prompt: Prompt) -> list[str]:
    return [name for name in CATEGORIES if prompt.counts[name]]


def _positions(prompts: Sequence[Prompt]) -> dict[str, object]:
    """Word and category of every position."""
    names = [[CATEGORIES[code] for code in prompt.category.tolist()] for prompt in prompts]
    return {
        "prompt": range(len(prompts)),
        "text": ("prompt", [prompt.text for prompt in prompts]),
        POSITION: range(len(prompts[0].ids)),
        "word": (("prompt", POSITION), [list(prompt.words) for prompt in prompts]),
        "category": (("prompt", POSITION), names),
    }
