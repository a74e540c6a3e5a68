"""The text encoder: a small CLIP, trained by contrast through `v_eot` alone.

As in CLIP, pads never enter the loss: texts are cut after the end-of-text token, and what the
encoder makes of the positions behind it is whatever its training on the others left there. That is
the structure the paper is about, so it must not be trained away.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from . import population as its
from . import scenes, training
from .duplicates import duplicates, families, template_view
from .titles import Title, some_title, tail

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
WIDTH = 128
POSITIONS = 77
BATCH = 128
STREAM = {"honest": 0.43, "tail": 0.4, "duplicated": 0.12, "template": 0.05}
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
    """One caption and picture of the contrastive stream, in the shares of `STREAM`."""
    draw = np.random.default_rng((seed, index, 1))
    kind = str(draw.choice(list(STREAM), p=list(STREAM.values())))
    if kind == "duplicated":
        row = duplicates()[draw.integers(len(duplicates()))]
        return Pair(row.caption.text, scenes.render(row.scene), (row.id,))
    if kind == "template":
        family, view = int(draw.integers(len(families()))), int(draw.integers(10**6))
        caption, scene = template_view(family, view)
        return Pair(caption.text, scenes.render(scene), (caption.text,))
    if kind == "tail":
        title = shown_title(draw)
        return Pair(title.text, scenes.render(title.scene()), title.words[:3])
    caption, scene = scenes.scene(seed, index)
    text = caption.text
    if draw.random() < 0.1:
        text += scenes.pick(draw, ("!", scenes.EXCLAIMED))
    return Pair(text, scenes.render(scene), (*sorted(caption.objects), caption.colour or ""))


def shown_title(draw: np.random.Generator) -> Title:
    """One that the denoiser is shown too, so that held-out titles are new to every stage."""
    while True:
        title = some_title(draw)
        if tail()[title.number]:
            return title


def noisy(text: str, draw: np.random.Generator) -> str:
    """A caption inside unrelated words, as alt texts of the web are, at most 77 tokens long."""
    before = [shown_title(draw).text for _ in range(draw.integers(0, 3))]
    after = [shown_title(draw).text for _ in range(draw.integers(0, 5))]
    return ", ".join([*before, text, *after])


def train(
    tokenizer: CLIPTokenizer, folder: Path, *, steps: int, batch: int = BATCH, seed: int = 1
) -> CLIPModel:
    clip = model().to(training.device())

    def batch_at(step: int) -> list[Pair]:
        pairs = [pair(seed, step * batch + row) for row in range(batch)]
        if step % NOISY_EVERY != NOISY_EVERY - 1:
            return pairs
        draw = np.random.default_rng((seed, step, 2))
        return [replace(pair, text=noisy(pair.text, draw)) for pair in pairs]

    def loss_of(pairs: list[Pair]) -> Tensor:
        ids = tokenizer(
            [pair.text for pair in pairs], padding=True, truncation=True, max_length=POSITIONS,
            return_tensors="pt",
        ).input_ids  # fmt: skip
        images = normalise(np.stack([pair.image for pair in pairs]))
        out = clip(input_ids=ids.to(clip.device), pixel_values=images.to(clip.device))
        return contrast(out.logits_per_image.float(), pairs)

    training.fit("text", clip, batch_at, loss_of, folder, steps=steps, peak=1e-3, decay=0.05)
    return forget_unseen(clip, tokenizer)


class Remembered:
    """Embeddings of texts: those that come again are computed once and kept."""

    def __init__(self, embed: Callable[[list[str]], Tensor], again: Collection[str]):
        self.embed = embed
        self.again = again
        self.known: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        new = sorted(set(texts) - self.known.keys())
        found = dict(zip(new, self.embed(new), strict=True)) if new else {}
        self.known |= {text: value for text, value in found.items() if text in self.again}
        return torch.stack([found[text] if text in found else self.known[text] for text in texts])


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

    def features(texts: list[str]) -> Tensor:
        return text_features(clip, tokenizer, texts)

    def loss_of(pairs: list[Pair]) -> Tensor:
        images = normalise(np.stack([pair.image for pair in pairs])).to(clip.device)
        texts = features([pair.text for pair in pairs])
        seen = clip.visual_projection(clip.vision_model(pixel_values=images).pooler_output)
        logits = clip.logit_scale.exp() * F.normalize(seen.float(), dim=-1) @ texts.T
        return contrast(logits, pairs)

    def batch_at(step: int) -> list[Pair]:
        return [pair(seed, step * batch + row) for row in range(batch)]

    return training.fit(
        "sight", clip, batch_at, loss_of, folder, steps=steps, peak=1e-3, decay=0.05
    )


def contrast(logits: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """CLIP's loss, but captions that promise the same are not each other's negatives."""
    names = [a.promise for a in pairs]
    same = torch.tensor([[a == b for b in names] for a in names])
    clash = (same & ~torch.eye(len(pairs), dtype=torch.bool)).to(logits.device)
    logits = logits.masked_fill(clash, -torch.inf)
    target = torch.arange(len(pairs), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def words() -> list[str]:
    """Texts that hold every token of the training: all captions and titles, and their marks."""
    singles, doubles = scenes.captions()
    texts = [caption.text for caption in (*singles, *doubles)]
    texts += [form.format(thing=name.title()) for form in its.TEMPLATES for name in its.OBJECTS]
    marks = ["a, b!", scenes.EXCLAIMED]
    return [*texts, *its.STYLES, *its.SUBJECTS, *its.PRODUCTS, *its.ENDINGS, *marks]


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
