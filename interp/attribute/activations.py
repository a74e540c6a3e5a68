"""How active the neurons of value projections are. They see only the text: no UNet call needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.hooks import is_fused
from interp.denoiser.layers import Selector, Site, select, sites
from interp.session import Session
from interp.session.settings import of_unet
from interp.text.prompt import Prompt

LAYERS = ("down", "mid")


@torch.no_grad()
def activations(
    session: Session, prompts: str | Prompt | Sequence[str | Prompt], layers: Selector = LAYERS
) -> xr.DataArray:
    """How active every neuron of the value projections is, averaged over the prompt's 77 tokens.

    Example:
        >>> usual = activations(sd, captions)
        >>> usual.mean("prompt"), usual.std("prompt", ddof=1)        # NeMo's statistics

    Returns:
        `activation(prompt, layer, neuron) = mean over positions of |W_V e|`, NaN where a layer has
        fewer neurons. The UNet does not run.

    Source: Hintersdorf et al., NeurIPS 2024 (arXiv 2406.02366), section 4.
    """
    of_unet(session, "The activity of neurons")
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


def _values(
    session: Session, site: Site, prompts: Sequence[Prompt]
) -> Float[Tensor, "prompt position neuron"]:
    attention = session.pipe.unet.get_submodule(site.path)
    text = torch.stack([prompt.embeds for prompt in prompts]).to(session.pipe.unet.dtype)
    if is_fused(attention):
        return attention.to_kv(text).chunk(2, dim=-1)[1].float()
    return attention.to_v(text).float()
