"""Attribution patching: the whole causal map to first order, from one backward pass per step.

Keys and values are linear in the embeddings, so a patch changes them by a known amount; times the
gradient of the value, that is what the patch would change in every head of every layer, for every
category, through keys and through values, all from the same pass. It is an estimate: `agreement`
says how it ranks cells beside the exact map of `causal_trace`, which costs more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm

from interp import results
from interp.attribute.points import Points, chunks, clean_points, predict, rows_at_once
from interp.attribute.values import NoiseValue, Value, guidance, value_name
from interp.denoiser.hooks import Hooks, hookable, is_fused
from interp.denoiser.layers import Selector, Site, select
from interp.denoiser.unet_call import calls_per_run
from interp.errors import InterpError
from interp.patch import Patch
from interp.patch.where import Steps
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Session
from interp.session.batches import labels
from interp.session.settings import of_unet
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt

SIDES = ("k", "v")
AXES = ("patch", "side", "prompt", "seed", "step", "layer", "head", "category")
GRAPH = 4
"""Memory of a row whose graph is kept, in rows without: every layer's activations are held."""
FORWARD_AND_BACKWARD = 3
"""Cost of a row with its gradient, in rows without: a backward pass is two forward passes."""


def attribution_patching(
    session: Session,
    prompts: str | Prompt | Sequence[str | Prompt],
    patch: Patch | Mapping[str, Patch],
    layers: Selector = "all",
    steps: Steps | str = "all",
    *,
    value: Value | None = None,
    seeds: Seeds = (0,),
) -> xr.Dataset:
    """The first-order estimate of what a patch changes, in every cell of the map at once.

    Example:
        >>> away = ip.swap(("eot", "pad"), donor=b, align="nearest")
        >>> estimate = attribution_patching(sd, a, away, seeds=range(4)).estimate
        >>> estimate.sel(category="pad", side="v").sum("head").mean("seed")

    At each step of the clean trajectory, `estimate = <d value / d K, K(patched) - K(clean)>`, and
    likewise for values, summed over the positions of a category. Estimates of cells add up: the sum
    over heads, sides or layers is the estimate of patching them together.

    Args:
        session: pipeline and settings.
        prompts: one or several, texts or encoded.
        patch: an edit of conditional embeddings (not limited to layers, heads or steps: the map
            shows them all), or several by name, which makes an axis `patch`.
        layers, steps: which cells.
        value: differentiable value of noise predictions, `guidance()` by default.
        seeds: as in `Session.run`.

    Returns:
        `estimate(patch, side, prompt, seed, step, layer, head, category)` in units of the value:
        value with the patch minus value without. NaN for heads that a layer lacks. And
        `clean(prompt, seed, step)`. Attribute `unet_rows` counts a backward pass as two rows;
        `unet_rows_naive` is one generation for each layer, step and category that is patched.

    Raises:
        InterpError: for patches that do not edit conditional embeddings.

    Source: Nanda 2023, "Attribution patching"; Kramár et al. 2024, AtP* (arXiv 2403.00745), whose
    warning holds here too: where the softmax is saturated, effects through keys are underestimated.
    """
    of_unet(session, "Attribution patching")
    encoded, seeds = session._prompts(prompts), chosen_seeds(seeds)
    names, patches = labels(patch)
    value = _differentiable(patches, guidance() if value is None else value)
    places = select(hookable(session.pipe), layers)
    calls = calls_per_run(session.pipe, session.steps)
    found, clean, rows, categories = [], [], 0.0, 0
    for prompt in tqdm(encoded, unit="prompt", disable=None):
        points = clean_points(session, prompt, seeds, steps)
        rows += points.spent + FORWARD_AND_BACKWARD * len(points)
        edited = [each.embeds(prompt, session.pipe) for each in patches]
        categories = sum(len(_touched(prompt, embeds)) for embeds in edited)
        deltas = {site: _deltas(session.pipe.unet, site, prompt, edited) for site in places}
        estimates, values = _estimate(session, points, places, deltas, value)
        sizes = {"seed": len(seeds), "step": len(points.steps)}
        found.append(rearrange(estimates, "p s (seed step) ... -> p s seed step ...", **sizes))
        clean.append(points.table(values))
    data = xr.Dataset(
        {
            "estimate": (AXES, np.stack([part.numpy() for part in found], axis=2)),
            "clean": xr.concat(clean, "prompt"),
        },
        coords={
            "patch": names or ["patch"],
            "side": list(SIDES),
            "prompt": range(len(encoded)),
            "text": ("prompt", [prompt.text for prompt in encoded]),
            "layer": [site.name for site in places],
            "head": range(found[0].shape[-2]),
            "category": list(CATEGORIES),
            "tokens": (("prompt", "category"), [list(p.counts.values()) for p in encoded]),
            "timestep": ("step", points.timestep[: len(points.steps)].cpu().numpy()),
        },
    )
    generation = 2 * calls * len(seeds) * len(encoded)
    cells = len(places) * len(points.steps) * categories
    data = data if names is not None else data.isel(patch=0, drop=True)
    data.attrs.update(unet_rows=float(rows), unet_rows_naive=float(cells * generation))
    return results.stamp(
        data,
        **session.provenance(),
        method="attribution_patching",
        value=value_name(value),
        patches={
            name: each.to_json() for name, each in zip(names or ["patch"], patches, strict=True)
        },
        prompts=[prompt.text for prompt in encoded],
        seeds=list(seeds),
        trajectory="clean",
    )


def _estimate(
    session: Session,
    points: Points,
    places: Sequence[Site],
    deltas: Mapping[Site, Mapping[str, Tensor]],
    value: NoiseValue,
) -> tuple[Float[Tensor, "patch side row layer head category"], Float[Tensor, " row"]]:
    """Estimates and clean values at all points, one forward and one backward pass each."""
    heads = max(site.heads for site in places)
    patches = len(next(iter(deltas.values()))["k"])
    shape = (patches, len(SIDES), len(points), len(places), heads, len(CATEGORIES))
    found, values = torch.full(shape, float("nan")), torch.empty(len(points))
    codes = torch.arange(len(CATEGORIES))
    members = (rearrange(points.prompt.category, "position -> position 1") == codes).float()
    for rows in chunks(len(points), max(1, rows_at_once(session) // GRAPH)):
        part, span = points[rows], slice(rows.start, rows.stop)
        with projections(session.pipe.unet, places) as leaves, torch.enable_grad():
            each = value.at(predict(session, part, part.prompt.embeds), part.eps_u)
            kept = {(site, side): leaves[site, side] for site in places for side in SIDES}
            gradients = torch.autograd.grad(each.sum(), list(kept.values()))
        values[span] = each.detach().cpu()
        for (site, side), gradient in zip(kept, gradients, strict=True):
            split = "row position (head inner) -> row position head inner"
            found[:, SIDES.index(side), span, places.index(site), : site.heads] = einsum(
                rearrange(gradient.float(), split, head=site.heads).cpu(),
                deltas[site][side],
                members,
                "row position head inner, patch position head inner, position category "
                "-> patch row head category",
            )
    return found, values


@contextmanager
def projections(
    unet: nn.Module, places: Sequence[Site]
) -> Iterator[dict[tuple[Site, str], Tensor]]:
    """Keys and values of these layers, as leaves of the graph that the next UNet call makes.

    Example:
        >>> with projections(pipe.unet, sites(pipe.unet)) as leaves:
        ...     norm = predict(sd, points, a.embeds).norm()
        >>> torch.autograd.grad(norm, leaves[site, "v"])
    """
    leaves: dict[tuple[Site, str], Tensor] = {}

    def leave(
        site: Site, sides: Sequence[str], module: nn.Module, args: tuple, kwargs: dict, output: Any
    ) -> Tensor:
        for side, part in zip(sides, output.detach().chunk(len(sides), dim=-1), strict=True):
            leaves[site, side] = part.clone().requires_grad_()
        return torch.cat([leaves[site, side] for side in sides], dim=-1)

    with Hooks() as hooks:
        for site in places:
            for module, sides in _modules(unet, site):
                hooks.after(module, partial(leave, site, sides))
        yield leaves


def _modules(unet: nn.Module, site: Site) -> list[tuple[nn.Module, tuple[str, ...]]]:
    attention: Any = unet.get_submodule(site.path)
    if is_fused(attention):
        return [(attention.to_kv, SIDES)]
    return [(attention.to_k, ("k",)), (attention.to_v, ("v",))]


@torch.no_grad()
def _deltas(
    unet: nn.Module, site: Site, prompt: Prompt, edited: Sequence[Tensor]
) -> dict[str, Float[Tensor, "patch position head inner"]]:
    """What each patch adds to the keys and to the values of a layer."""
    text = torch.stack([prompt.embeds, *edited])
    found = {}
    for module, sides in _modules(unet, site):
        for side, part in zip(sides, module(text).chunk(len(sides), dim=-1), strict=True):
            split = "row position (head inner) -> row position head inner"
            heads = rearrange(part.float(), split, head=site.heads)
            found[side] = (heads[1:] - heads[:1]).cpu()
    return found


def _touched(prompt: Prompt, edited: Tensor) -> set[int]:
    """The categories that an edit changes."""
    changed = (edited != prompt.embeds).any(dim=-1).cpu()
    return set(prompt.category[changed].tolist())


def _differentiable(patches: Sequence[Patch], value: Value) -> NoiseValue:
    """The value, if it and the patches have a map of gradients."""
    for patch in patches:
        rows = {operation.where.uncond for operation in patch.operations}
        if not patch.edits_embeddings or not rows <= {False}:
            raise InterpError(
                f"Cannot estimate the effect of {patch!r}.",
                "Gradients are taken at the keys and values of conditional rows, for edits of the "
                "embeddings that hold everywhere: the map itself says where and when.",
                "Leave out layers=, steps=, heads=, side= and uncond=, and do not mask.",
            )
    if not isinstance(value, NoiseValue) or value.steps is not None:
        raise InterpError(
            f"Cannot differentiate {value_name(value)}.",
            "Gradients are of values of noise predictions, one step at a time.",
            "Use guidance() or noise_value(f), and choose the cells' steps by steps=.",
        )
    return value
