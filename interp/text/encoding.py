"""From text to `Prompt`, through a pipeline's own tokenizers and encoders.

The embeddings equal those of diffusers' `encode_prompt`, bit for bit. Each prompt is encoded alone:
matrix products round differently in batches of different sizes, and a prompt's embedding must not
depend on the rest of its batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor, nn

from interp.errors import InterpError
from interp.text.categories import EOT, around, categories
from interp.text.prompt import Prompt
from interp.transformer.family import family

ASIDE: ContextVar[bool] = ContextVar("encoding aside", default=False)
"""True while the toolkit itself encodes during a run, which hooks on the encoder must ignore."""

Ids = Integer[Tensor, " position"]


def encode(
    pipe: Any,
    texts: str | Sequence[str],
    pad_token: str | int | None = None,
    clip_skip: int | None = None,
    max_sequence_length: int | None = None,
) -> list[Prompt]:
    """Encode texts as the pipeline would, and say what each position is.

    Example:
        >>> a, b = encode(pipe, ["Antique Church Poster in Berlin", "a photo of a goat"])
        >>> (bang,) = encode(pipe, "a photo of a goat", pad_token="!")

    An over-long prompt is cut where the pipeline cuts it, with a warning that says what was lost.
    `clip_skip` skips that many of the encoder's last layers. `max_sequence_length` is the number of
    T5's positions, as in the pipelines of SD 3, FLUX and PixArt.

    Raises:
        InterpError: the pad token is not in the vocabulary, or SDXL's two tokenizers split the text
            into different numbers of tokens.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if family(pipe) is not None:
        from interp.text.segments import encode_segments  # it imports from here

        asked = (pad_token, max_sequence_length, clip_skip)
        return [encode_segments(pipe, text, *asked) for text in texts]
    return [_encode_one(pipe, text, pad_token, clip_skip) for text in texts]


@contextmanager
def aside() -> Iterator[None]:
    """Encode in the block without hooks on the encoder taking notice."""
    before = ASIDE.set(True)
    try:
        yield
    finally:
        ASIDE.reset(before)


def encoders(pipe: Any) -> list[tuple[Any, nn.Module]]:
    """The pipeline's (tokenizer, text encoder) pairs, the primary one first.

    Example:
        >>> len(encoders(sdxl))
        2
    """
    pairs = [
        (getattr(pipe, f"tokenizer{suffix}", None), getattr(pipe, f"text_encoder{suffix}", None))
        for suffix in ("", "_2")
    ]
    found = [(tokenizer, encoder) for tokenizer, encoder in pairs if encoder is not None]
    if not found:
        raise InterpError(
            f"The text encoder of a {type(pipe).__name__} was asked for.",
            "It has none.",
            "Load the pipeline with its text encoders, or pass `tokens=` encoded by another one.",
        )
    return found


def embed(
    pipe: Any,
    ids: Sequence[Integer[Tensor, " position"]],
    mask: Integer[Tensor, " position"],
    clip_skip: int | None = None,
) -> tuple[Float[Tensor, "position channel"], Float[Tensor, " pooled"] | None]:
    """The embeddings, and SDXL's pooled embedding, of the ids for each encoder.

    Example:
        >>> embeds, pooled = embed(pipe, [prompt.ids], (prompt.category < 3).long())

    `mask` is 1 up to the end of the prompt; it is only used by encoders with `use_attention_mask`.
    """
    pairs = encoders(pipe)
    device = pipe._execution_device
    rows = [rearrange(row, "position -> 1 position").to(device) for row in ids]
    with torch.no_grad():
        if not hasattr(pipe, "text_encoder_2"):
            encoder = pairs[0][1]
            masked = getattr(encoder.config, "use_attention_mask", False)
            shown = rearrange(mask, "position -> 1 position").to(device) if masked else None
            output = encoder(
                rows[0], attention_mask=shown, output_hidden_states=clip_skip is not None
            )
            hidden, pooled = output[0], None
            if clip_skip is not None:
                norm = next(m for n, m in encoder.named_modules() if n.endswith("final_layer_norm"))
                hidden = norm(output.hidden_states[-(clip_skip + 1)])
        else:
            # SDXL takes both encoders' states before the last layer, and pools only the second's.
            outputs = [
                encoder(row, output_hidden_states=True)
                for (_, encoder), row in zip(pairs, rows, strict=True)
            ]
            layer = -((clip_skip or 0) + 2)
            hidden = torch.cat([output.hidden_states[layer] for output in outputs], dim=-1)
            pooled = rearrange(outputs[-1][0], "1 pooled -> pooled")
    return rearrange(hidden, "1 position channel -> position channel").to(
        dtype=pairs[-1][1].dtype
    ), pooled


def from_ids(
    pipe: Any,
    ids: Integer[Tensor, " position"],
    embeds: Float[Tensor, "position channel"],
    ids_2: Integer[Tensor, " position"] | None = None,
) -> Prompt:
    """A prompt from its ids and embeddings, when its text is not known.

    Example:
        >>> embeds, _ = pipe.encode_prompt("a photo of a goat", "cpu", 1, False)
        >>> ids = pipe.tokenizer("a photo of a goat", padding="max_length", return_tensors="pt")
        >>> from_ids(pipe, ids.input_ids[0], embeds[0]).text
        'a photo of a goat'

    Raises:
        InterpError: the prompt ends at different positions for SDXL's two encoders.
    """
    tokenizers = [tokenizer for tokenizer, _ in encoders(pipe)]
    ends = [
        int((categories(row, tokenizer.pad_token_id, tokenizer.eos_token_id) < EOT).sum())
        for row, tokenizer in zip((ids, ids_2), tokenizers, strict=False)
        if row is not None
    ]
    end = max(ends)
    text = tokenizers[0].decode(ids[1:end].tolist())
    # Where pads are end-of-text tokens, a prompt that ends by spelling one out looks too short. The
    # other encoder, which pads with something else, shows its real end: both read the same text.
    if ids_2 is not None and not torch.equal(ids[: end + 1], ids_2[: end + 1]):
        read = zip(tokenizers, (ids, ids_2), ends, strict=True)
        _agree([one.decode(row[1:stop].tolist()) for one, row, stop in read], ends)
    codes = around(torch.arange(len(ids)), torch.tensor([end]))
    words = tuple(word(tokenizers[0], number) for number in ids.tolist())
    pads = tuple(tokenizer.pad_token_id for tokenizer in tokenizers)
    return Prompt(text, ids, words, codes, embeds, ids_2=ids_2, pad_ids=pads)


def pad_id(tokenizer: Any, token: str | int | None) -> int:
    """The id of a pad token given by name, by id, or as None (the tokenizer's own).

    Example:
        >>> pad_id(pipe.tokenizer, "!")
        0

    Raises:
        InterpError: the token is not in the vocabulary.
    """
    if token is None:
        return tokenizer.pad_token_id
    number = tokenizer.convert_tokens_to_ids(token) if isinstance(token, str) else token
    # An unknown name silently becomes the unknown token, which is CLIP's end-of-text token.
    known = 0 <= number < len(tokenizer) and (
        isinstance(token, int) or tokenizer.convert_ids_to_tokens(number) == token
    )
    if not known:
        raise InterpError(
            f"The pad token {token!r} was asked for.",
            f"It is none of the {len(tokenizer)} tokens in the vocabulary.",
            "Pass a whole token, such as '!', '<|endoftext|>' or 'the</w>', or its id.",
        )
    return number


def _encode_one(pipe: Any, text: str, pad_token: str | int | None, clip_skip: int | None) -> Prompt:
    rows, ends, pads = [], [], []
    words: tuple[str, ...] = ()
    cut = ""
    for number, (tokenizer, _) in enumerate(encoders(pipe)):
        # A textual inversion can stand for several tokens.
        shown = pipe.maybe_convert_prompt(text, tokenizer)
        whole = tokenizer(shown, return_offsets_mapping=True, verbose=False)
        limit = tokenizer.model_max_length
        row = tokenizer(shown, padding="max_length", max_length=limit, truncation=True)
        end = sum(row.attention_mask) - 1
        pads.append(pad_id(tokenizer, pad_token))
        kept, fill = row.input_ids[: end + 1], limit - end - 1
        rows.append(torch.tensor(kept + [pads[-1]] * fill))
        ends.append(end)
        if number == 0:
            names = [
                word(tokenizer, kept[0]),
                *_words(shown, whole, end),
                word(tokenizer, kept[-1]),
            ]
            words = tuple(names + [word(tokenizer, pads[0])] * fill)
            if len(whole.input_ids) > limit:
                cut = shown[whole.offset_mapping[limit - 1][0] :]
    _agree([text, text], ends)
    if cut:
        warnings.warn(
            f"The prompt {text!r} is too long for the text encoder: {cut!r} was cut off.",
            stacklevel=3,
        )
    position = torch.arange(len(rows[0]))
    embeds, pooled = embed(pipe, rows, (position <= ends[0]).long(), clip_skip)
    second = rows[1] if len(rows) > 1 else None
    codes = around(position, torch.tensor([ends[0]]))
    return Prompt(text, rows[0], words, codes, embeds, pooled, second, tuple(pads), cut)


def _agree(texts: Sequence[str], ends: Sequence[int]) -> None:
    """Raise unless the prompt ends at the same position for all encoders, given these texts."""
    if len(set(ends)) == 1:
        return
    (first, second), counts = texts, f"{ends[0] - 1} and {ends[1] - 1} tokens"
    if first.replace(" ", "") == second.replace(" ", ""):
        raise InterpError(
            f"The categories of {first!r} were asked for.",
            f"SDXL's two tokenizers split it into {counts} (the second reads '!!' as two pad "
            "tokens), so its positions have no common category.",
            "Replace several '!' in a row by one.",
        )
    raise InterpError(
        f"The categories of {first!r} with prompt_2={second!r} were asked for.",
        f"They have {counts}, so positions have no category common to SDXL's two encoders.",
        "Give both encoders the same text, or texts with the same number of tokens.",
    )


def _words(text: str, encoded: Any, end: int) -> list[str]:
    """The word of each prompt token, as spelled in the text."""
    numbers = encoded.word_ids(0)[1:end]
    offsets = encoded.offset_mapping[1:end]
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, (start, stop) in zip(numbers, offsets, strict=True):
        first.setdefault(number, start)
        last[number] = stop
    return [text[first[number] : last[number]] for number in numbers]


def word(tokenizer: Any, number: int) -> str:
    """How a tokenizer spells one token: `word(pipe.tokenizer, 0)` is '!'."""
    return tokenizer.decode([number])
