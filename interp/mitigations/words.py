"""Mitigations that change the words: random tokens or numbers among them.

Somepalli et al., "Understanding and Mitigating Copying in Diffusion Models", NeurIPS 2023. They
change what the user asked for, so measure CLIPScore against the original prompt.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from interp.errors import InterpError
from interp.session import Session
from interp.text.prompt import Prompt


@dataclass(frozen=True)
class RandomWords:
    """Insert random words at random places between the words of a prompt."""

    kind: Literal["tokens", "numbers"]
    count: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 0:
            raise InterpError(
                f"{self.count} random {self.kind} were asked for.",
                "Any number from 0 can be inserted.",
                "The authors use 4, as Wen et al. do; Kim & No use 1.",
            )

    def text(self, text: str, tokenizer: Any) -> str:
        """Return the prompt with the random words in it; the same for the same prompt and seed."""
        # Drawn per prompt, so that a prompt's result does not depend on what ran before it.
        random = np.random.default_rng([self.seed, zlib.crc32(text.encode())])
        words = text.split()
        for _ in range(self.count):
            words.insert(int(random.integers(len(words) + 1)), self._word(random, tokenizer))
        return " ".join(words) if self.count else text

    def rewrite(self, session: Session, prompt: Prompt, seeds: Sequence[int]) -> Prompt:
        """Return the rewritten prompt, encoded."""
        return session.encode(self.text(prompt.text, session.pipe.tokenizer))

    def to_json(self) -> str:
        """Return what was done."""
        settings = {"count": self.count, "seed": self.seed}
        return json.dumps({"rewrite": f"random_{self.kind}", **settings})

    def _word(self, random: np.random.Generator, tokenizer: Any) -> str:
        if self.kind == "numbers":
            return str(random.integers(100_000))
        special = set(tokenizer.all_special_ids)
        for _ in range(100 * len(tokenizer)):
            token = int(random.integers(len(tokenizer)))
            # Half of CLIP's vocabulary continues words and the first 512 are bytes: a token that
            # does not survive decoding would come back as several others.
            word = tokenizer.decode([token]).strip()
            read = tokenizer(word, add_special_tokens=False).input_ids
            if token not in special and read == [token]:
                return word
        raise InterpError(
            f"A random token of {len(tokenizer)} was asked for.",
            "None of them is read back as itself, as a word between others.",
            "Insert numbers: random_numbers(4).",
        )


def random_tokens(count: int = 4, seed: int = 0) -> RandomWords:
    """Insert random tokens of the vocabulary at random places between the words (RTA).

    Example:
        >>> sd.images(prompt, seeds=range(4), patch=random_tokens(4, seed=0))

    Args:
        count: 4 is the default of the authors' script (its function's is 2), and what Wen et al.'s
            code inserts at inference; Kim & No's inserts 1.
        seed: the draw depends on it and on the prompt alone.

    Source: Somepalli et al. 2023. Their code decodes any id below 49,400, byte fragments included,
    which are read back as one or more other tokens; here each drawn token stays one token. Theirs
    draws from Python's and numpy's global generators.
    """
    return RandomWords("tokens", count, seed)


def random_numbers(count: int = 4, seed: int = 0) -> RandomWords:
    """Insert random whole numbers below 100,000 at random places between the words (RNA).

    Example:
        >>> sd.images(prompt, seeds=range(4), patch=random_numbers(4, seed=0))

    Arguments as in `random_tokens`. Source: Somepalli et al. 2023; a number is several tokens.
    """
    return RandomWords("numbers", count, seed)
