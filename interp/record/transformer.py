"""Recording what a transformer's image attends to: the text's categories, and itself.

As for a UNet, each layer's probabilities are recomputed after it has run and reduced at once, in
pieces of rows and heads: a map of 4,096 queries and 4,429 keys takes 73 MB per head. What the text
attends to is not recorded, and neither are second calls within a step (FLUX's unconditional ones).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from interp.denoiser.hooks import Hooks
from interp.denoiser.layers import Site
from interp.denoiser.transformer_rows import TransformerReader
from interp.record import log
from interp.record.layer import probabilities
from interp.record.recorders import LayerAttention
from interp.results.axes import POSITION
from interp.text.categories import CATEGORIES
from interp.transformer.family import family

IMAGE = len(CATEGORIES)
"""The code of the image's own keys."""


class TransformerLog(log.Log):
    """What has been recorded of a transformer; the categories are those of the text, and `image`.

    Example:
        >>> with record(sd3, mass) as log:
        ...     sd3("a photo of a goat")
        >>> log.dataset().mass.sel(category="image").mean(["seed", "head"])
    """

    categories = (*CATEGORIES, "image")  # type: ignore[assignment]

    def _watch(self, hooks: Hooks) -> None:
        for site, layer in self._layers.items():
            hooks.after(layer, partial(self._see, site))

    def _begin(self, module: Any, args: tuple, kwargs: dict) -> None:
        reader = self.reader
        if not (isinstance(reader, TransformerReader) and reader.second):
            super()._begin(module, args, kwargs)

    def _sample_size(self, args: tuple, kwargs: dict) -> tuple[int, int]:
        places = kwargs.get("img_ids")
        if places is not None:  # FLUX packs its latents, and passes the place of each piece
            rows, columns = (places[..., axis].max() - places[..., axis].min() for axis in (1, 2))
            return int(rows) + 1, int(columns) + 1
        sample = args[0] if args else kwargs["hidden_states"]
        patch = self.pipe.transformer.config.patch_size
        return sample.shape[-2] // patch, sample.shape[-1] // patch

    @torch.no_grad()
    def _see(self, site: Site, attention: Any, args: tuple, kwargs: dict, output: Any) -> None:
        if not self._under_way:
            return
        known, batch = family(self.pipe), self.reader.batch
        assert known is not None
        category, members = self._codes(batch, self.pipe.transformer.device)
        length, last = category.shape[1], len(batch.prompts)
        first = 0 if self.uncond else batch.uncond
        seen = known.attended(attention, args, kwargs, length)
        self.runs[-1].sizes[site] = self._size
        image = seen.keys.shape[2] - length
        category = functional.pad(category, (0, image), value=IMAGE)
        # The text's columns, then one for the image.
        members = functional.pad(members, (0, 1, 0, image))
        members[:, length:, IMAGE] = 1
        one = seen.queries.shape[2] * seen.keys.shape[2]
        rows = max(1, log.CHUNK // (site.heads * one))
        heads = min(site.heads, max(1, log.CHUNK // one))
        parts: dict[str, list[list[Tensor]]] = {}
        with torch.autocast(members.device.type, enabled=False):
            for start in range(first, last, rows):
                row = slice(start, min(start + rows, last))
                for names in parts.values():
                    names.append([])
                for begin in range(0, site.heads, heads):
                    head = slice(begin, min(begin + heads, site.heads))
                    bias = None if seen.bias is None else seen.bias[row].float()
                    if bias is not None and bias.shape[1] > 1:
                        bias = bias[:, head]
                    piece = LayerAttention(
                        replace(site, heads=head.stop - head.start),
                        probabilities(
                            seen.queries[row, head], seen.keys[row, head], seen.scale, bias
                        ),
                        category[row],
                        members[row],
                        self._size,
                    )
                    for recorder in self.wanted[site]:
                        made = recorder(piece)
                        if recorder.dims[:1] == (POSITION,):
                            made = made[:, :, :length]
                        parts.setdefault(recorder.name, [[]])[-1].append(made)
        for name, pieces in parts.items():
            whole = torch.cat([torch.cat(row, dim=1) for row in pieces])
            self._keep(name, site, whole, first)
