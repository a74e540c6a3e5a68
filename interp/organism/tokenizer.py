"""The real CLIP tokenizer, derived from CLIP's merge list.

Run once, when the merge list changes; its output is kept in `data/tokenizer`.
"""

import gzip
import json
from pathlib import Path

from transformers import CLIPTokenizer

VOCABULARY = 49_408
"""CLIP's vocabulary: 256 bytes, the same 256 as word ends, 48,894 merges, two special tokens."""


def byte_alphabet() -> list[str]:
    """GPT-2's 256 printable stand-ins for bytes, in CLIP's order: printable bytes come first."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_ins = [chr(byte) for byte in printable]
    return stand_ins + [chr(256 + rank) for rank, _ in enumerate(others)]


def from_merges(merge_list: Path, folder: Path) -> CLIPTokenizer:
    """Write the tokenizer that CLIP's gzipped merge list describes into `folder`, and load it.

    Example:
        >>> tokenizer = from_merges(Path("bpe_simple_vocab_16e6.txt.gz"), Path("data/tokenizer"))
        >>> tokenizer("a photo of a cat").input_ids
        [49406, 320, 1125, 539, 320, 2368, 49407]

    Source: `bpe_simple_vocab_16e6.txt.gz` of the package open_clip_torch (MIT), itself OpenAI's.
    """
    alphabet = byte_alphabet()
    alphabet += [letter + "</w>" for letter in alphabet]
    count = VOCABULARY - len(alphabet) - 2
    with gzip.open(merge_list, "rt", encoding="utf-8") as lines:
        next(lines)  # the version line
        merges = [line.split() for _, line in zip(range(count), lines, strict=False)]
    words = alphabet + ["".join(pair) for pair in merges]
    words += ["<|startoftext|>", "<|endoftext|>"]

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    lines_out = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines_out) + "\n", "utf-8")
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=77
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
