"""The right result, worked out without hooks of ours and without an idea of a batch's rows.

The text encoder itself is made to return edited embeddings, and attention is worked out for the
rows that hold the text's, wherever they are.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

import interp as ip
from tests.matrix.families import TEXT

Z = ip.zero("pad", fraction=0.7)
EFFECT = 1e-3
"""An edit that changes less than this proves nothing."""


def run(pipe: Any, steps: int = 2, **call: Any) -> Tensor:
    usual = {"prompt": TEXT, "output_type": "latent", "return_dict": False}
    generator = torch.Generator().manual_seed(0)
    output = pipe(num_inference_steps=steps, generator=generator, **{**usual, **call})
    return torch.as_tensor(output[0]).float()


def tokens(pipe: Any, text: str) -> tuple[list[int], int]:
    """The ids of the text up to its end, and how many pads 70 % of them are."""
    tokenizer = getattr(pipe, "tokenizer", None) or pipe.tokenizer_2
    ids = tokenizer(text).input_ids
    return ids, int(0.7 * (77 - len(ids)))


@contextmanager
def encoders_edited(pipe: Any, text: str = TEXT) -> Iterator[None]:
    """The text encoders return zeros for 70 % of the text's pads."""
    ids, pads = tokens(pipe, text)

    def edit(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
        given = args[0] if args else kwargs["input_ids"]
        for row, read in enumerate(given.tolist()):
            if read[: len(ids)] == ids:
                for state in (output.get("last_hidden_state"), *(output.hidden_states or ())):
                    if state is not None:
                        state[row, len(ids) : len(ids) + pads] = 0
        return output

    parts = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
    handles = [part.register_forward_hook(edit, with_kwargs=True) for part in parts if part]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def attention_to_pads(pipe: Any, text: str = TEXT) -> Iterator[dict[str, list[Tensor]]]:
    """For every layer, how much the text's rows attend to its pads, `[row, head]` at every call."""
    ids, _ = tokens(pipe, text)
    primary = getattr(pipe, "text_encoder", None) or pipe.text_encoder_2
    heard: list[Tensor] = []
    seen: dict[str, list[Tensor]] = {}

    def hear(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        given = args[0] if args else kwargs["input_ids"]
        rows = [row for row, read in enumerate(given.tolist()) if read[: len(ids)] == ids]
        states = [output.last_hidden_state, *(output.hidden_states or ())]
        heard.extend(state[row] for state in states for row in rows)

    def look(name: str, layer: Any, args: Any, kwargs: Any, output: Any) -> None:
        given = kwargs["encoder_hidden_states"]
        rows = given[0] if isinstance(given, tuple) else given  # beside an IP-Adapter's images
        mine = [
            number
            for number, row in enumerate(rows)
            if any(torch.equal(row[:, : one.shape[-1]], one) for one in heard)
        ]
        split = "row place (head inner) -> row head place inner"
        q, k = (
            rearrange(part, split, head=layer.heads)
            for part in (layer.to_q.forward(args[0][mine]), layer.to_k.forward(rows[mine]))
        )
        scores = q.float() @ rearrange(k.float(), "r h p i -> r h i p") * layer.scale
        to_pads = scores.softmax(-1)[..., len(ids) :].sum(-1).mean(-1)
        seen.setdefault(name, []).append(to_pads.detach())

    handles = [primary.register_forward_hook(hear, with_kwargs=True)]
    for site in ip.sites(pipe.unet):
        layer = pipe.unet.get_submodule(site.path)

        def hook(module: Any, args: Any, kwargs: Any, output: Any, name: str = site.name) -> None:
            look(name, module, args, kwargs, output)

        handles.append(layer.register_forward_hook(hook, with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
