"""Prompts of transformers: the positions of several encoders, one after the other.

SD 3 has CLIP's 77 positions, whose channels come from two encoders, followed by T5's; FLUX and
PixArt have only T5's. T5 has no start token, reads in both directions, and has its own pad token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional

from interp.errors import InterpError
from interp.text.categories import PAD, PROMPT, categories
from interp.text.encoding import aside, pad_id, word
from interp.text.prompt import Prompt
from interp.transformer.family import CLIP, Family, family

Ids = Integer[Tensor, " _"]  # of several encoders, so of several lengths
Embeds = Float[Tensor, "position channel"]


def encode_segments(
    pipe: Any,
    text: str,
    pad_token: str | int | None = None,
    length: int | None = None,
    clip_skip: int | None = None,
) -> Prompt:
    """Encode a text as a transformer's pipeline would, and say what each position is.

    Example:
        >>> encode_segments(sd3, "a photo of a goat").segments
        (('clip', 77), ('t5', 256))

    Args:
        length: T5's positions, the pipeline's `max_sequence_length`; its default if None.
        clip_skip: how many more of CLIP's last layers are left out.

    Raises:
        InterpError: the pad token is not in a vocabulary.
    """
    known = must_have(pipe)
    ids: dict[str, Ids] = {}
    truncated = ""
    for segment in known.segments:
        for suffix in segment.encoders:
            row, cut = _tokens(pipe, known, suffix, segment.name, text, pad_token, length)
            ids[suffix], truncated = row, truncated or cut
    for suffix in known.pooled:
        ids.setdefault(suffix, _tokens(pipe, known, suffix, CLIP, text, None, None)[0])
    embeds, pooled = embed(pipe, ids, clip_skip)
    return replace(describe(pipe, ids, embeds, pooled), text=text, truncated=truncated)


def must_have(pipe: Any) -> Family:
    """The family of a pipeline; it must have all its text encoders.

    Raises:
        InterpError: one is missing, as in SD 3 without T5.
    """
    known = family(pipe)
    assert known is not None
    suffixes = [suffix for segment in known.segments for suffix in segment.encoders]
    for suffix in (*suffixes, *known.pooled):
        if getattr(pipe, f"text_encoder{suffix}", None) is None:
            raise InterpError(
                f"The prompts of a {type(pipe).__name__} were asked for.",
                f"It has no text_encoder{suffix}.",
                "Load the pipeline with all its text encoders.",
            )
    return known


def embed(
    pipe: Any, ids: Mapping[str, Ids], clip_skip: int | None = None
) -> tuple[Embeds, Float[Tensor, " pooled"] | None]:
    """The embeddings, and the pooled one, of ids given for every encoder by its ending.

    Example:
        >>> prompt = encode_segments(flux, "a photo of a goat")
        >>> embeds, _ = embed(flux, {"_2": prompt.ids})

    The pooled embedding is None if the ids of an encoder that it needs are missing.
    """
    known, device = must_have(pipe), pipe._execution_device
    outputs: dict[str, Any] = {}
    for suffix, row in ids.items():
        shown = rearrange(row, "position -> 1 position").to(device)
        asked: dict[str, Any] = {}
        if any(suffix in s.encoders and s.state is not None for s in known.segments):
            asked["output_hidden_states"] = True
        if known.masks:
            tokenizer = getattr(pipe, f"tokenizer{suffix}")
            asked["attention_mask"] = (category(row, tokenizer) < PAD).long()[None].to(device)
        with torch.no_grad():
            outputs[suffix] = getattr(pipe, f"text_encoder{suffix}")(shown, **asked)
    parts = []
    for segment in known.segments:
        found = [
            outputs[s].last_hidden_state
            if segment.state is None
            else outputs[s].hidden_states[segment.state - (clip_skip or 0)]
            for s in segment.encoders
        ]
        parts.append(torch.cat(found, dim=-1))
    width = max(part.shape[-1] for part in parts)
    joined = torch.cat([functional.pad(p, (0, width - p.shape[-1])) for p in parts], dim=1)
    embeds = rearrange(joined, "1 position channel -> position channel")
    if not known.pooled or any(suffix not in outputs for suffix in known.pooled):
        return embeds, None
    pooled = [pooled_of(outputs[suffix]) for suffix in known.pooled]
    return embeds, rearrange(torch.cat(pooled, dim=-1), "1 pooled -> pooled")


def pooled_of(output: Any) -> Float[Tensor, "row pooled"]:
    """CLIP's pooled embedding, projected if the encoder has a projection."""
    projected = getattr(output, "text_embeds", None)
    return output.pooler_output if projected is None else projected


def describe(
    pipe: Any,
    ids: Mapping[str, Ids],
    embeds: Embeds,
    pooled: Float[Tensor, " pooled"] | None = None,
) -> Prompt:
    """A prompt from every encoder's ids and its embeddings, when its text is not known.

    Example:
        >>> prompt = encode_segments(flux, "a photo of a goat")
        >>> describe(flux, {"_2": prompt.ids}, prompt.embeds).counts
    """
    known = must_have(pipe)
    rows, words, codes, segments, second = [], [], [], [], []
    text = ""
    for segment in known.segments:
        tokenizer = getattr(pipe, f"tokenizer{segment.encoders[0]}")
        row = ids[segment.encoders[0]]
        code = category(row, tokenizer)
        text = tokenizer.decode(row[code == PROMPT].tolist())
        rows.append(row)
        second.append(ids[segment.encoders[-1]])
        codes.append(code)
        words += [word(tokenizer, number) for number in row.tolist()]
        segments.append((segment.name, len(row)))
    two = any(len(segment.encoders) > 1 for segment in known.segments)
    pads = [getattr(pipe, f"tokenizer{s}").pad_token_id for g in known.segments for s in g.encoders]
    return Prompt(
        text,
        torch.cat(rows),
        tuple(words),
        torch.cat(codes),
        embeds,
        pooled,
        torch.cat(second) if two else None,
        tuple(pads),
        segments=tuple(segments),
    )


def category(ids: Ids, tokenizer: Any) -> Ids:
    """The category code of every position of one encoder, from its ids."""
    eos = tokenizer.eos_token_id
    if tokenizer.bos_token_id is not None:
        return categories(ids, tokenizer.pad_token_id, eos)
    # T5: a text that spells out </s> still ends with another one.
    end = (ids == eos).nonzero().flatten()[-1:]
    position = torch.arange(len(ids))
    return PROMPT + (position >= end).long() + (position > end).long()


def apart(pipe: Any, ids: Sequence[Ids], segments: Sequence[tuple[str, int]]) -> dict[str, Ids]:
    """The ids of every encoder that has positions, by its suffix.

    Example:
        >>> prompt = encode_segments(sd3, "a photo of a goat")
        >>> apart(sd3, [prompt.ids, prompt.ids_2], prompt.segments)["_3"]     # T5's
    """
    found, start = {}, 0
    for segment, (_, length) in zip(must_have(pipe).segments, segments, strict=True):
        piece = slice(start, start + length)
        for suffix, row in zip(segment.encoders, ids, strict=False):
            found[suffix] = row[piece]
        start += length
    return found


def repad_segments(pipe: Any, prompt: Prompt, token: str | int, given: Embeds) -> Prompt:
    """The same prompt, encoded again with another pad token in every encoder.

    Example:
        >>> prompt = encode_segments(sd3, "a photo of a goat")
        >>> repad_segments(sd3, prompt, 5, prompt.embeds).embeds[prompt.at("t5.pad")]

    T5 reads in both directions, so its other embeddings change too.

    Raises:
        InterpError: the encoders do not reproduce these embeddings, or lack the token.
    """
    ids = [row for row in (prompt.ids, prompt.ids_2) if row is not None]
    before = apart(pipe, ids, prompt.segments)
    with aside():
        known, _ = embed(pipe, before)
        error = (known.float() - given.float()).norm() / given.float().norm()
        if error > max(1e-3, 8 * torch.finfo(known.dtype).eps):
            raise InterpError(
                f"Cannot encode {prompt!r} again with the pad token {token!r}.",
                "The text encoders do not reproduce its embeddings: they were edited, or made with "
                "other settings.",
                "Give the pipeline text, or the result of interp.encode(pipe, text).",
            )
        after = {}
        for suffix, row in before.items():
            tokenizer = getattr(pipe, f"tokenizer{suffix}")
            behind = category(row, tokenizer) == PAD
            after[suffix] = torch.where(behind, pad_id(tokenizer, token), row)
        embeds, _ = embed(pipe, after)
    return replace(prompt, embeds=embeds)


def _tokens(
    pipe: Any,
    known: Family,
    suffix: str,
    kind: str,
    text: str,
    pad_token: str | int | None,
    length: int | None,
) -> tuple[Ids, str]:
    """The ids for one encoder, and the text that was cut off."""
    tokenizer = getattr(pipe, f"tokenizer{suffix}")
    if hasattr(pipe, "maybe_convert_prompt"):
        text = pipe.maybe_convert_prompt(text, tokenizer)
    if hasattr(pipe, "_text_preprocessing"):
        (text,) = pipe._text_preprocessing(text, clean_caption=True)
    limit = pipe.tokenizer_max_length if kind == CLIP else length or known.length
    row = tokenizer(text, padding="max_length", max_length=limit, truncation=True)
    end = sum(row.attention_mask)
    whole: Sequence[int] = tokenizer(text, verbose=False).input_ids
    cut = tokenizer.decode(whole[limit - 1 : -1]) if len(whole) > limit else ""
    fill = [pad_id(tokenizer, pad_token)] * (limit - end)
    return torch.tensor([*row.input_ids[:end], *fill]), cut
