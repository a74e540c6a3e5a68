"""Is the image gone, or only out of the prompt's reach? A search for embeddings that bring it back.

A mitigation that leaves the weights alone can at best keep a prompt from its image. Searching for
another embedding, with the mitigation on, says how far away the image is. Needs gradients through
the UNet, and the training image. It is no measure of danger: nobody types an embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from einops import reduce, repeat
from PIL import Image

from interp.denoiser import unet_call
from interp.denoiser.epsilon import alpha_bar
from interp.detect.case import Case
from interp.detect.decomposition import training_latent
from interp.errors import InterpError
from interp.metrics import Metric
from interp.metrics.images import Images
from interp.patch import Patch, apply
from interp.patch.base import Operation
from interp.patch.operations import Repad, Swap
from interp.report.subject import Subject
from interp.results import intervals
from interp.results.numbers import Seeds, chosen_seeds
from interp.session import Rewrite, Session
from interp.session.settings import text_alone
from interp.text.prompt import Prompt
from interp.text.repad import repad

EDITED = ("embeddings", "keys", "values", "logits")
"""What a patch may edit and still be on in a single conditional prediction."""


def retrigger(
    session: Session,
    prompt: str | Prompt,
    training: Images,
    patch: Patch | None = None,
    *,
    iterations: int = 100,
    rate: float = 0.05,
    draws: int = 4,
    seed: int = 0,
) -> Prompt:
    """Return the prompt with an embedding under which a training image is denoised, patch on.

    Example:
        >>> found = retrigger(sd, a, image, ip.zero("pad"))
        >>> sd.images(found, seeds=range(4), patch=ip.zero("pad"))

    By Adam on `|eps(z_t, t, e) - eps|^2` over the embedding e, from the prompt's own: each
    iteration draws noise eps and puts it on the image's latent at one step of the run.

    What `repad` would encode is taken from the prompt as it is, for found embeddings have no text;
    `encoded_before` makes such a patch, for generating too.

    Args:
        session, prompt: pipeline and settings, and where the search starts.
        training: the image to bring back, of the size that is generated.
        patch: on while it searches; an edit of embeddings or attention. Where it edits a position,
            what is found there is edited too.
        iterations, rate: of Adam.
        draws: noises of each iteration. Each costs a UNet row and its backward pass.
        seed: of steps and noise.

    Raises:
        InterpError: the image has another size, or the patch acts on what is predicted.

    Source: Kowalczuk et al., "Finding DoRI", 2025 (arXiv 2507.16880), whose loss it is. They draw
    all training timesteps, and start from random embeddings as well.
    """
    text_alone(session)
    (encoded,) = session._prompts(prompt)
    for operation in patch.operations if patch else ():
        if operation.EDITS not in EDITED:
            raise InterpError(
                f"An embedding was to be found under {operation!r}.",
                "It acts on two predictions, and the search is for one.",
                "Search under patches of embeddings or attention.",
            )
    patch = None if patch is None else encoded_before(session, encoded, patch)
    pipe, draw = session.pipe, torch.Generator().manual_seed(seed)
    latent = training_latent(Case(session, encoded, [seed], training=training))
    timesteps = unet_call.timesteps(pipe, session.steps)
    delta = torch.zeros_like(encoded.embeds, dtype=torch.float32).requires_grad_()
    optimiser = torch.optim.Adam([delta], lr=rate)
    with apply(pipe, [(encoded, patch)], guided=False, strict=False) as applied:
        for _ in range(iterations):
            step = int(torch.randint(len(timesteps), (), generator=draw))
            abar = alpha_bar(pipe.scheduler, float(timesteps[step]))
            noise = torch.randn((draws, *latent.shape[1:]), generator=draw).to(latent)
            noisy = abar**0.5 * latent + (1 - abar) ** 0.5 * noise
            embeds = (encoded.embeds.float() + delta).to(encoded.embeds.dtype)
            applied.at(step)
            eps = unet_call.predict(
                pipe, noisy, timesteps[step], [abar] * draws,
                repeat(embeds, "position channel -> row position channel", row=draws),
                encoded.pooled,
            )  # fmt: skip
            error = reduce((eps - noise).float().square(), "row c h w -> ", "mean")
            (delta.grad,) = torch.autograd.grad(error, delta)
            optimiser.step()
    found = (encoded.embeds.float() + delta).detach().to(encoded.embeds.dtype)
    return replace(encoded, embeds=found)


def encoded_before(session: Session, prompt: Prompt, patch: Patch) -> Patch:
    """The same patch for this prompt, but that pads are encoded now: whatever its embeddings are.

    Example:
        >>> encoded_before(sd, a, ip.repad("!"))
        swap('pad', donor=..., align='position') & repad('!', uncond='only')
    """
    parts: list[Operation] = []
    for operation in patch.operations:
        if not isinstance(operation, Repad):
            parts.append(operation)
            continue
        donor, where = repad(session.pipe, prompt, operation.token), operation.where
        if where.uncond != "only":
            parts.append(Swap(operation.categories, replace(where, uncond=False), donor))
        if where.uncond:
            parts.append(replace(operation, where=replace(where, uncond="only")))
    return Patch(tuple(parts))


def retriggered(
    session: Session,
    cases: Sequence[Subject],
    edits: Mapping[str, Patch | Rewrite],
    similarity: Metric,
    keeps: float,
    seeds: Seeds = 2,
    *,
    iterations: int = 100,
) -> pd.DataFrame:
    """Return how many copies mitigations leave, before and after a search for another embedding.

    Example:
        >>> retriggered(sd, memorized[:4], {"zero pad 70 %": zero_pads(0.7)}, sscd, 0.5)

    Args:
        cases: memorized prompts with training images.
        edits: mitigations; those that are no patches of embeddings or attention are left out.
        similarity, keeps: how copies are told from other images.
        seeds: images of each prompt.
        iterations: as in `retrigger`.

    Returns:
        A row for each mitigation: `before` and `after`, shares of copies with their 95 % intervals
        by training image.
    """
    chosen = chosen_seeds(seeds)
    rows = []
    for name, patch in edits.items():
        if not isinstance(patch, Patch) or any(o.EDITS not in EDITED for o in patch.operations):
            continue
        shares: dict[str, list[list[float]]] = {"before": [], "after": []}
        for case in cases:
            if not isinstance(case.image, Image.Image):
                continue
            size = (session.width, session.height)
            picture = case.image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
            own = session.encode(case.text)
            other = retrigger(session, own, picture, patch, iterations=iterations)
            on = encoded_before(session, own, patch)
            for when, prompt in (("before", own), ("after", other)):
                images = session.run(prompt, chosen, on).image.isel(prompt=0)
                alike = similarity(images.transpose("seed", ...).values, case.image)
                shares[when].append((alike >= keeps).double().tolist())
        row: dict[str, Any] = {"mitigation": name}
        for when, of in shares.items():
            found = intervals.mean(xr.DataArray(np.array(of), dims=("prompt", "seed")))
            row |= {
                f"{when}{end and '_' + end}": float(found[end or "mean"])
                for end in ("", "low", "high")
            }
        rows.append(row)
    return pd.DataFrame(rows)
