"""Prompts of more than 77 positions: several windows, encoded separately and concatenated.

As made by compel and long-prompt pipelines. Every window has its own start, end and pads, so
categories are determined window by window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import torch

from interp.errors import InterpError
from interp.text.prompt import Prompt


def join(prompts: Sequence[Prompt]) -> Prompt:
    """Return one prompt with these windows; SDXL's pooled embedding is that of the first.

    Example:
        >>> long = ip.join(ip.encode(pipe, ["a cat in the garden of a house", "painted in oil"]))
        >>> empty = ip.join(ip.encode(pipe, ["", ""]))
        >>> with ip.zero("pad").on(pipe, tokens=long):
        ...     pipe(prompt_embeds=long.embeds[None], negative_prompt_embeds=empty.embeds[None])

    Raises:
        InterpError: there are none, or they are of different models.
    """
    if not prompts or len({prompt.embeds.shape[1:] for prompt in prompts}) > 1:
        raise InterpError(
            f"Cannot join {len(prompts)} prompts.",
            "There must be at least one, and all must be of one model.",
            "Encode them with one pipeline: interp.encode(pipe, texts).",
        )
    first = prompts[0]
    seconds = [prompt.ids_2 for prompt in prompts if prompt.ids_2 is not None]
    return replace(
        first,
        text=" ".join(prompt.text for prompt in prompts),
        ids=torch.cat([prompt.ids for prompt in prompts]),
        words=tuple(chain.from_iterable(prompt.words for prompt in prompts)),
        category=torch.cat([prompt.category for prompt in prompts]),
        embeds=torch.cat([prompt.embeds for prompt in prompts]),
        ids_2=torch.cat(seconds) if seconds else None,
        truncated=" ".join(filter(None, (prompt.truncated for prompt in prompts))),
    )


def apart(prompt: Prompt) -> list[Prompt]:
    """Return the windows of a prompt as prompts, each with the text of the whole.

    Example:
        >>> [len(part.ids) for part in apart(join([a, b]))]
        [77, 77]
    """
    return [
        replace(
            prompt,
            ids=prompt.ids[window],
            words=prompt.words[window],
            category=prompt.category[window],
            embeds=prompt.embeds[window],
            ids_2=None if prompt.ids_2 is None else prompt.ids_2[window],
        )
        for window in prompt.windows
    ]
