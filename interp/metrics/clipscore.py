"""Fidelity to the prompt: the cosine of CLIP's image and text embeddings."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from interp.denoiser.memory import halving
from interp.errors import InterpError
from interp.metrics.base import Metric, cosines
from interp.metrics.images import (
    Images,
    as_batch,
    centre_crop,
    normalise,
    one_for_each,
    resize_short_edge,
)
from interp.results.hashes import folder_sha256
from interp.session.quiet import quiet

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class CLIPScore(Metric):
    """Cosine similarity of image and prompt under a CLIP model, as the field reports it.

    Example:
        >>> clip = CLIPScore("models/clip-vit-base-patch32")
        >>> clip(images, ["a photo of a goat"])
        tensor([0.31, 0.28])

    Measure against the prompt that the user wrote, even if a mitigation rewrote it. Neither
    Hessel et al.'s factor 2.5 nor their clipping at 0 is applied: no paper of this field does.

    Args:
        folder: a `CLIPModel` and its tokenizer as saved by transformers (safetensors). Image size
            from its config; mean and deviation from `preprocessor_config.json` or else OpenAI's.
        device: where the model runs.
        batch_size: images at a time; fewer where there is no memory for them.

    Raises:
        InterpError: there is no such folder, or no CLIP model in it.
    """

    name = "clipscore"
    larger_is_closer = True
    against = "prompt"

    def __init__(
        self, folder: str | Path, device: str | torch.device = "cpu", batch_size: int = 32
    ) -> None:
        self.folder = Path(folder).expanduser()
        config = self.folder / "config.json"
        found = json.loads(config.read_text()).get("model_type") if config.is_file() else None
        if found != "clip":
            raise InterpError(
                asked=f"A CLIP model in {str(self.folder)!r} was asked for.",
                exists=f"There is a model of type {found!r}."
                if found
                else "There is no config.json.",
                todo="Give a folder made by CLIPModel.save_pretrained and its tokenizer's.",
            )
        self.sha256 = folder_sha256(self.folder)
        with quiet():
            self._model = CLIPModel.from_pretrained(
                self.folder, local_files_only=True, use_safetensors=True
            )
        self._model.eval().requires_grad_(False).to(device)
        self._tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        self.device, self.batch_size = torch.device(device), batch_size
        self.width: int = self._model.config.projection_dim
        self.image_size: int = self._model.config.vision_config.image_size
        self.mean, self.std = self._normalisation()

    def __reduce__(self) -> tuple[Any, ...]:
        # Other processes load the folder, rather than being sent the weights with every task.
        return type(self), (self.folder.resolve(), str(self.device), self.batch_size)

    def _normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        path = self.folder / "preprocessor_config.json"
        stored = json.loads(path.read_text()) if path.is_file() else {}
        mean, std = stored.get("image_mean", OPENAI[0]), stored.get("image_std", OPENAI[1])
        return tuple(mean), tuple(std)

    @torch.no_grad()
    def embed_images(self, images: Images) -> Float[Tensor, "n d"]:
        """Return L2-normalised image embeddings (shorter edge bicubic, then cropped)."""
        parts = halving(as_batch(images), self._embedded, lambda: self.batch_size)
        return F.normalize(torch.cat([embedded for _, embedded in parts]).float(), dim=1)

    def _embedded(self, batch: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        small = resize_short_edge(batch.to(self.device), self.image_size, "bicubic")
        pixels = normalise(centre_crop(small, self.image_size), self.mean, self.std)
        return _pooled(self._model.get_image_features(pixel_values=pixels)).cpu()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Return L2-normalised text embeddings; texts beyond the model's context are cut."""
        ids = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        features = self._model.get_text_features(
            input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]
        )
        return F.normalize(_pooled(features).float().cpu(), dim=1)

    def __call__(self, images: Images, reference: str | Sequence[str]) -> Float[Tensor, " n"]:
        """Return one cosine per image; `reference` is one prompt for all, or one for each."""
        a = self.embed_images(images)
        b = self.embed_texts([reference] if isinstance(reference, str) else reference)
        return einsum(a, one_for_each(b, len(a), "prompt"), "n d, n d -> n")

    def pairwise(self, images: Images) -> Float[Tensor, " pairs"]:
        """Return the cosine of the image embeddings of all unordered pairs."""
        return cosines(self.embed_images(images))

    def provenance(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "folder": self.folder.name,
            "sha256": self.sha256,
            "image_size": self.image_size,
            "mean": list(self.mean),
            "std": list(self.std),
            "resize": "shorter edge bicubic, antialiased, then centre crop",
        }


def _pooled(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else features.pooler_output
