"""A prompt encoded again with other pads, the way it was encoded before.

Embeddings come from the text encoder's layer chosen by `clip_skip`, at the LoRA scale of that call.
Neither is known afterwards, so both are searched for: the prompt with its own pads must reproduce
the given embeddings. Embeddings that no layer reproduces, because they were weighted or learnt, are
refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor, nn

from interp.errors import InterpError
from interp.text.categories import PAD
from interp.text.encoding import aside, encoders, pad_id, word
from interp.text.prompt import Prompt
from interp.text.segments import repad_segments
from interp.text.windows import apart, join

Embeds = Float[Tensor, "position channel"]
Ids = Integer[Tensor, " position"]


@dataclass(frozen=True)
class Recipe:
    """How embeddings were made: which hidden state of each encoder, and the LoRA scale."""

    states: tuple[int, ...]
    scale: float


def repad(pipe: Any, prompt: Prompt, token: str | int, given: Embeds | None = None) -> Prompt:
    """The same prompt with another pad token, encoded again.

    Example:
        >>> repad(pipe, prompt, "!").embeds[prompt.at("pad")]

    The tokenizer is not changed, only the ids after the prompt's end. The all-zero embeddings that
    SDXL gives its unconditional rows are not an encoding and stay as they are, just as they do in a
    pipeline whose tokenizer has another pad token.

    Args:
        given: the embeddings that the UNet received for this prompt; by default the prompt's own.

    Raises:
        InterpError: no layer of the pipeline's encoders reproduces these embeddings.
    """
    given = prompt.embeds if given is None else given
    if not bool(given.any()):
        return prompt
    if prompt.segments:
        return repad_segments(pipe, prompt, token, given)
    if len(prompt.windows) > 1:
        made = [
            repad(pipe, part, token, given[window])
            for part, window in zip(apart(prompt), prompt.windows, strict=True)
        ]
        return replace(join(made), text=prompt.text)
    tokenizers = [tokenizer for tokenizer, _ in encoders(pipe)]
    pads = tuple(pad_id(tokenizer, token) for tokenizer in tokenizers)
    behind = prompt.category == PAD
    before = [prompt.ids] if prompt.ids_2 is None else [prompt.ids, prompt.ids_2]
    ids = [torch.where(behind, pad, row) for pad, row in zip(pads, before, strict=True)]
    with aside():
        recipe = _recipe(pipe, before, (~behind).long(), given)
        if recipe is None:
            raise InterpError(
                f"Cannot encode {prompt!r} again with the pad token {token!r}.",
                "No layer of the text encoder reproduces its embeddings: they were weighted, "
                "learnt or edited, or the encoder has changed since.",
                "Give the pipeline text, or embeddings from its own encoder: "
                "interp.encode(pipe, text).",
            )
        states, pooled = _states(pipe, ids, (~behind).long(), recipe.scale)
    parts = [found[number] for found, number in zip(states, recipe.states, strict=True)]
    words = tuple(
        word(tokenizers[0], pads[0]) if pad else spelled
        for spelled, pad in zip(prompt.words, behind.tolist(), strict=True)
    )
    second, dtype = (ids[1] if len(ids) > 1 else None), _dtype(pipe)
    return Prompt(
        prompt.text,
        ids[0],
        words,
        prompt.category,
        torch.cat(parts, dim=-1).to(dtype),
        pooled,
        second,
        pads,
        prompt.truncated,
    )


def _recipe(
    pipe: Any, ids: Sequence[Ids], mask: Integer[Tensor, " position"], given: Embeds
) -> Recipe | None:
    """The states and the scale that reproduce these embeddings best, if any do."""
    given = given.detach().float()
    # In another batch, a prompt's embeddings are rounded differently.
    best, error = None, max(1e-3, 8 * torch.finfo(_dtype(pipe)).eps)
    for scale in _scales(pipe):
        states, _ = _states(pipe, ids, mask, scale)
        if sum(found[0].shape[-1] for found in states) != given.shape[-1]:
            return None
        chosen, worst, start = [], 0.0, 0
        for found in states:
            part = given[:, start : start + found[0].shape[-1]]
            start += part.shape[-1]
            errors = [float((one.to(part) - part).norm() / part.norm()) for one in found]
            chosen.append(min(range(len(found)), key=errors.__getitem__))
            worst = max(worst, min(errors))
        if worst < error:
            best, error = Recipe(tuple(chosen), scale), worst
    return best


def _dtype(pipe: Any) -> torch.dtype:
    last: Any = encoders(pipe)[-1][1]
    return last.dtype


def _scales(pipe: Any) -> list[float]:
    """The LoRA scales at which the pipeline's last call may have encoded."""
    said = (getattr(pipe, "cross_attention_kwargs", None) or {}).get("scale")
    tried = [1.0, said, getattr(pipe, "_lora_scale", None)]
    adapted = any(_adapters(encoder) for _, encoder in encoders(pipe))
    return list(dict.fromkeys(s for s in tried if s is not None)) if adapted else [1.0]


def _states(
    pipe: Any, ids: Sequence[Ids], mask: Integer[Tensor, " position"], scale: float
) -> tuple[list[list[Embeds]], Float[Tensor, " pooled"] | None]:
    """All hidden states of each encoder, and SDXL's pooled embedding.

    In order: the last state; all states as they are, as SDXL takes them; and all states after the
    final normalisation, as SD takes them.
    """
    device = pipe._execution_device
    found, pooled = [], None
    for (_, encoder), row in zip(encoders(pipe), ids, strict=True):
        masked = getattr(encoder.config, "use_attention_mask", False)
        asked = {}
        if masked and not hasattr(pipe, "text_encoder_2"):
            asked["attention_mask"] = rearrange(mask, "position -> 1 position").to(device)
        with torch.no_grad(), _scaled(encoder, scale), _between(encoder) as between:
            output = encoder(rearrange(row, "position -> 1 position").to(device), **asked)
            norms = [m for n, m in encoder.named_modules() if n.endswith("final_layer_norm")]
            normed = [norm(state) for norm in norms for state in between]
        every = (output.last_hidden_state, *between, *normed)
        found.append([rearrange(one, "1 position channel -> position channel") for one in every])
        if output[0].ndim == 2:
            pooled = rearrange(output[0], "1 pooled -> pooled")
    return found, pooled


@contextmanager
def _between(encoder: nn.Module) -> Iterator[list[Tensor]]:
    """The inputs and outputs of the encoder's layers while it runs.

    Asking transformers for hidden states would leave hooks on the encoder for good.
    """
    states: list[Tensor] = []
    layers = next((part for part in encoder.modules() if isinstance(part, nn.ModuleList)), ())

    def given(layer: nn.Module, args: tuple) -> None:
        states.append(args[0])

    def returned(layer: nn.Module, args: tuple, output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_hook(returned) for layer in layers]
    if layers:
        handles.append(layers[0].register_forward_pre_hook(given))  # type: ignore[index]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def _adapters(encoder: nn.Module) -> list[nn.Module]:
    """The layers of LoRAs, which keep a scale for each adapter."""
    return [m for m in encoder.modules() if isinstance(getattr(m, "scaling", None), dict)]


@contextmanager
def _scaled(encoder: nn.Module, scale: float) -> Iterator[None]:
    """Scale the encoder's adapters, as the pipeline does while it encodes."""
    before = [(layer, dict(layer.scaling)) for layer in _adapters(encoder)]  # type: ignore[arg-type]
    for layer, scales in before:
        layer.scaling = {name: usual * scale for name, usual in scales.items()}  # type: ignore[assignment]
    try:
        yield
    finally:
        for layer, scales in before:
            layer.scaling = scales  # type: ignore[assignment]
