"""Copy detection by descriptor: SSCD, and any network that keeps its calling convention.

Pizzi et al., "A Self-Supervised Descriptor for Image Copy Detection", CVPR 2022. The field's main
measure of memorization. Three preprocessings are in use and their scores differ by several
hundredths, so the one used is part of the number.
"""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp.denoiser.memory import halving
from interp.errors import InterpError
from interp.metrics.base import Metric, cosines
from interp.metrics.images import (
    Images,
    aligned,
    as_batch,
    centre_crop,
    normalise,
    resize,
    resize_short_edge,
)
from interp.results.hashes import file_sha256

Preprocess = Literal["skew_320", "288", "dcr", "native"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)


def preprocess(
    batch: Float[Tensor, "n 3 h w"], kind: Preprocess | str = "skew_320"
) -> Float[Tensor, "n 3 newh neww"]:
    """Return the batch as a descriptor network wants it.

    Example:
        >>> preprocess(batch, "skew_320").shape
        torch.Size([4, 3, 320, 320])

    - `"skew_320"`: 320 x 320 whatever the aspect, ImageNet mean and deviation. Recommended by the
      SSCD authors; NeMo, Han et al., and Kim & No, who use it with `sscd_disc_large`.
    - `"288"`: shorter edge to 288, aspect kept, ImageNet. The authors' other recommendation.
    - `"dcr"`: shorter edge to 256, central 224 x 224, mean and deviation 0.5. Somepalli et al., Wen
      et al., SAIL.
    - `"native"`: 64 x 64, ImageNet: for descriptors trained on 64 x 64 images.

    Bilinear, antialiased.
    """
    match kind:
        case "skew_320":
            return normalise(resize(batch, (320, 320)), *IMAGENET)
        case "288":
            return normalise(resize_short_edge(batch, 288), *IMAGENET)
        case "dcr":
            return normalise(centre_crop(resize_short_edge(batch, 256), 224), *HALF)
        case "native":
            return normalise(resize(batch, (64, 64)), *IMAGENET)
    raise _unknown(kind)


def _unknown(kind: str) -> InterpError:
    return InterpError(
        asked=f"preprocess={kind!r} was asked for.",
        exists=f"There are {', '.join(get_args(Preprocess))}.",
        todo="Take the one behind the numbers you compare with.",
    )


class SSCD(Metric):
    """Cosine similarity of copy-detection descriptors; 1 for equal images.

    Example:
        >>> sscd = SSCD("sscd_disc_mixup.torchscript.pt")
        >>> sscd(images, training_image)
        tensor([0.91, 0.07])

    The authors put copies at 0.75 (90 % precision); the field also uses 0.5 and 0.7.

    Args:
        path: a TorchScript file; `module(batch)` returns one descriptor per image. TorchScript is
            code: load only files whose source you know. Their SHA-256 is on the object.
        preprocess: see `preprocess`.
        device: where the network runs.
        batch_size: images at a time; fewer where there is no memory for them.

    Raises:
        InterpError: the file is missing or is not TorchScript, or the preprocessing is unknown.
    """

    name = "sscd"
    larger_is_closer = True

    def __init__(
        self,
        path: str | Path,
        preprocess: Preprocess | str = "skew_320",
        device: str | torch.device = "cpu",
        batch_size: int = 32,
    ) -> None:
        self.path = Path(path).expanduser()
        if not self.path.is_file():
            raise InterpError(
                asked=f"A descriptor at {str(self.path)!r} was asked for.",
                exists="There is no such file.",
                todo="Give the TorchScript file from the SSCD authors, "
                "or the descriptor.pt that comes with an embedded model.",
            )
        if preprocess not in get_args(Preprocess):
            raise _unknown(preprocess)
        self.sha256 = file_sha256(self.path)
        try:
            self._model = torch.jit.load(self.path, map_location=device).eval()
        except RuntimeError as cause:
            raise InterpError(
                asked=f"Cannot load {self.path.name} (SHA-256 {self.sha256}) as TorchScript.",
                exists="torch.jit.load refuses it.",
                todo="Export it with torch.jit.save; a plain state dict has no network in it.",
            ) from cause
        self.preprocess, self.device, self.batch_size = preprocess, torch.device(device), batch_size

    def __reduce__(self) -> tuple[Any, ...]:
        # TorchScript cannot be sent to other processes: they load the file.
        made = (self.path.resolve(), self.preprocess, str(self.device), self.batch_size)
        return type(self), made

    @torch.no_grad()
    def descriptors(self, images: Images) -> Float[Tensor, "n d"]:
        """Return one L2-normalised float32 descriptor per image, on the CPU."""
        parts = halving(as_batch(images), self._described, lambda: self.batch_size)
        return F.normalize(torch.cat([described for _, described in parts]), dim=1)

    def _described(self, batch: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        return self._model(preprocess(batch.to(self.device), self.preprocess)).float().cpu()

    def __call__(self, images: Images, reference: Images) -> Float[Tensor, " n"]:
        if len(one := as_batch(reference)) == 1:
            # One descriptor for the reference, not one per image.
            return einsum(self.descriptors(images), self.descriptors(one)[0], "n d, d -> n")
        a, b = aligned(images, reference)
        return einsum(self.descriptors(a), self.descriptors(b), "n d, n d -> n")

    def pairwise(self, images: Images) -> Float[Tensor, " pairs"]:
        """Return the similarity of all unordered pairs, each image described once."""
        return cosines(self.descriptors(images))

    def provenance(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "file": self.path.name,
            "sha256": self.sha256,
            "preprocess": self.preprocess,
            "resize": "bilinear, antialiased",
        }
