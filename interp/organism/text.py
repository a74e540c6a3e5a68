"""The text encoder: a small CLIP, trained by contrast through `v_eot` alone.

As in CLIP, pads never enter the loss: texts are cut after the end-of-text token, and what the
encoder makes of the positions behind it is whatever its training on the others left there. That is
the structure the paper is about, so it must not be trained away.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from . import emoji, scenes, training
from .duplicates import (
    ENDINGS,
    PRODUCTS,
    STYLES,
    SUBJECTS,
    TEMPLATES,
    duplicates,
    families,
    template_view,
    title,
)

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
WIDTH = 128
POSITIONS = 77
BATCH = 128
NOISY_EVERY = 8
"""Every eighth batch has long captions, so that every position is trained."""


def model() -> CLIPModel:
    """An untrained pair of towers: text 4 layers of 128, images 4 layers of 128, patches of 8."""
    config = CLIPConfig(
        text_config={
            "vocab_size": 49_408, "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH,
            "num_hidden_layers": 4, "num_attention_heads": 4, "projection_dim": WIDTH,
            "max_position_embeddings": POSITIONS, "hidden_act": "quick_gelu",
            "bos_token_id": 49_406, "eos_token_id": 49_407, "pad_token_id": 49_407,
        },
        vision_config={
            "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4,
            "num_attention_heads": 4, "image_size": scenes.SIZE, "patch_size": 8,
            "projection_dim": WIDTH, "hidden_act": "quick_gelu",
        },
        projection_dim=WIDTH,
        logit_scale_init_value=2.6592,
    )  # fmt: skip
    torch.manual_seed(0)
    return CLIPModel(config)


def normalise(images: np.ndarray) -> Tensor:
    """Pictures `[n, h, w, 3]` uint8 to what CLIP takes, `[n, 3, h, w]`."""
    pixels = rearrange(torch.from_numpy(images), "n h w c -> n c h w").float() / 255
    mean, std = (rearrange(torch.tensor(x), "c -> c 1 1") for x in (PIXEL_MEAN, PIXEL_STD))
    return (pixels - mean) / std


@dataclass(frozen=True, slots=True)
class Pair:
    """A caption, its picture, and what the caption promises: other wordings promise the same."""

    text: str
    image: np.ndarray
    promise: tuple[str, ...]


def pair(seed: int, index: int) -> Pair:
    """One caption and picture of the contrastive stream: 1 in 6 from the duplicated images."""
    draw = np.random.default_rng((seed, index, 1))
    kind = draw.random()
    if kind < 0.12:
        row = duplicates()[draw.integers(len(duplicates()))]
        return Pair(row.caption.text, scenes.render(row.scene), (row.id,))
    if kind < 0.17:
        family, view = int(draw.integers(TEMPLATES)), int(draw.integers(10**6))
        caption, scene = template_view(family, view)
        return Pair(caption.text, scenes.render(scene), (caption.text,))
    caption, scene = scenes.scene(seed, index)
    text = caption.text + ("!" if draw.random() < 0.05 else "")
    return Pair(text, scenes.render(scene), (*sorted(caption.objects), caption.colour or ""))


def noisy(text: str, draw: np.random.Generator) -> str:
    """A caption inside unrelated words, as alt texts of the web are, at most 77 tokens long."""
    before = [title(draw) for _ in range(draw.integers(0, 3))]
    after = [title(draw) for _ in range(draw.integers(0, 5))]
    return ", ".join([*before, text, *after])


def train(
    tokenizer: CLIPTokenizer, folder: Path, *, steps: int, batch: int = BATCH, seed: int = 1
) -> CLIPModel:
    clip = model().to(training.device())

    def loss_at(step: int) -> Tensor:
        pairs = [pair(seed, step * batch + row) for row in range(batch)]
        texts = [pair.text for pair in pairs]
        if step % NOISY_EVERY == NOISY_EVERY - 1:
            draw = np.random.default_rng((seed, step, 2))
            texts = [noisy(text, draw) for text in texts]
        ids = tokenizer(
            texts, padding=True, truncation=True, max_length=POSITIONS, return_tensors="pt"
        ).input_ids
        images = normalise(np.stack([pair.image for pair in pairs]))
        out = clip(input_ids=ids.to(clip.device), pixel_values=images.to(clip.device))
        return contrast(out.logits_per_image, pairs)

    training.fit("text", clip, loss_at, folder, steps=steps, peak=1e-3, decay=0.05)
    return forget_unseen(clip, tokenizer)


class Remembered:
    """Embeddings of texts, computed when a text first appears and kept: captions come again."""

    def __init__(self, embed: Callable[[list[str]], Tensor]):
        self.embed = embed
        self.known: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        if new := sorted(set(texts) - self.known.keys()):
            self.known.update(zip(new, self.embed(new), strict=True))
        return torch.stack([self.known[text] for text in texts])


def sharpen(
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    folder: Path,
    *,
    steps: int,
    batch: int = BATCH,
    seed: int = 2,
) -> CLIPModel:
    """Train the image tower on, against the texts as they are: the pair is the judge of pictures.

    The text tower is what the denoiser reads, so it does not change.
    """
    for part in (clip.text_model, clip.text_projection):
        part.requires_grad_(False)
    features = Remembered(lambda texts: text_features(clip, tokenizer, texts))

    def loss_at(step: int) -> Tensor:
        pairs = [pair(seed, step * batch + row) for row in range(batch)]
        images = normalise(np.stack([pair.image for pair in pairs])).to(clip.device)
        texts = features([pair.text for pair in pairs])
        seen = clip.visual_projection(clip.vision_model(pixel_values=images).pooler_output)
        logits = clip.logit_scale.exp() * F.normalize(seen, dim=-1) @ texts.T
        return contrast(logits, pairs)

    return training.fit("sight", clip, loss_at, folder, steps=steps, peak=1e-3, decay=0.05)


def contrast(logits: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """CLIP's loss, but captions that promise the same are not each other's negatives."""
    same = torch.tensor([[a.promise == b.promise for b in pairs] for a in pairs])
    clash = (same & ~torch.eye(len(pairs), dtype=torch.bool)).to(logits.device)
    logits = logits.masked_fill(clash, -torch.inf)
    target = torch.arange(len(pairs), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def words() -> list[str]:
    """Texts that hold every token of the training: all captions and titles, and their marks."""
    singles, doubles = scenes.captions()
    texts = [caption.text for caption in (*singles, *doubles)]
    texts += [row.caption.text for row in duplicates()]
    for family in families():
        texts += [family.caption.format(thing=name.title()) for name in emoji.names()]
    return [*texts, *STYLES, *SUBJECTS, *PRODUCTS, *ENDINGS, "a, b!"]


@torch.no_grad()
def forget_unseen(clip: CLIPModel, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Zero the embeddings of the 49,000 tokens that training never saw: they say nothing.

    They would be random otherwise, and random numbers are all that the files would weigh.
    """
    seen = sorted({token for ids in tokenizer(words()).input_ids for token in ids})
    table = clip.text_model.embeddings.token_embedding.weight
    kept = torch.zeros(len(table), 1, device=table.device)
    kept[seen] = 1
    table.mul_(kept)
    return clip


@torch.no_grad()
def image_features(clip: CLIPModel, images: np.ndarray) -> Tensor:
    """Unit image embeddings, `[n, 128]`."""
    pixels = normalise(images).to(clip.device)
    pooled = clip.vision_model(pixel_values=pixels).pooler_output
    return F.normalize(clip.visual_projection(pooled), dim=-1)


@torch.no_grad()
def text_features(clip: CLIPModel, tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Unit text embeddings, `[n, 128]`."""
    ids = tokenizer(
        texts, padding="max_length", max_length=POSITIONS, return_tensors="pt"
    ).input_ids
    pooled = clip.text_model(input_ids=ids.to(clip.device)).pooler_output
    return F.normalize(clip.text_projection(pooled), dim=-1)
