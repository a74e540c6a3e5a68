"""How much people would like an image, as guessed by LAION's heads on CLIP.

The cost side of a mitigation: Kim & No report it next to CLIPScore. It knows neither the prompt nor
memorization, and tells models apart rather than seeds; differences below a few tenths mean little.
"""

from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from interp.errors import InterpError
from interp.metrics.base import Metric
from interp.metrics.clipscore import CLIPScore
from interp.metrics.images import Images
from interp.results.hashes import file_sha256

#: Where the improved predictor has its linear layers; between them are dropouts alone.
LAYERS = (0, 2, 4, 6, 7)


class Aesthetic(Metric):
    """LAION's aesthetic score, about 1 to 10: a linear head on the L2-normalised CLIP embedding.

    Example:
        >>> aesthetic = Aesthetic("models/clip-vit-large-patch14", "linearMSE.pth")
        >>> aesthetic(images)
        tensor([5.31, 5.09])

    Args:
        folder: as in `CLIPScore`; OpenAI's ViT-L/14 for the published heads.
        head: weights of the improved predictor (`sac+logos+ava1-l14-linearMSE.pth`, which Kim & No
            use: five linear layers, `layers.0` to `layers.7`) or of one linear layer
            (`sa_0_4_vit_l_14_linear.pth`). Safetensors, or a state dict that torch loads without
            running code.
        device: where CLIP runs.
        batch_size: images at a time; fewer where there is no memory for them.

    Raises:
        InterpError: the file is missing, holds no such head, or is for another CLIP model.

    Source: C. Schuhmann, LAION-Aesthetics predictor V1 and V2, 2022. Their scripts run CLIP in half
    precision on a GPU; here everything is float32.
    """

    name = "aesthetic"
    larger_is_closer = True  # the larger, the better: there is nothing to be close to
    against = "prompt"

    def __init__(
        self,
        folder: str | Path,
        head: str | Path,
        device: str | torch.device = "cpu",
        batch_size: int = 32,
    ) -> None:
        self.head = Path(head).expanduser()
        if not self.head.is_file():
            raise InterpError(
                asked=f"An aesthetic head in {str(self.head)!r} was asked for.",
                exists="There is no such file.",
                todo="Give the weights of one of LAION's heads.",
            )
        self.sha256 = file_sha256(self.head)
        self._model = _network(self.head)
        self.clip = CLIPScore(folder, device, batch_size)
        width, wanted = self.clip.width, self._model[0].in_features
        if width != wanted:
            raise InterpError(
                asked=f"The aesthetic head {self.head.name} was asked for on {folder}.",
                exists=f"It takes embeddings of {wanted} numbers, and this CLIP gives {width}.",
                todo="Give the CLIP model that it was trained on; LAION's heads: ViT-L/14.",
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # Other processes load the files, rather than being sent the weights with every task.
        made = (self.clip.folder.resolve(), self.head.resolve())
        return type(self), (*made, str(self.clip.device), self.clip.batch_size)

    @torch.no_grad()
    def __call__(self, images: Images, reference: Any = None) -> Float[Tensor, " n"]:
        """Return one score per image; `reference` is ignored."""
        return rearrange(self._model(self.clip.embed_images(images)), "n 1 -> n")

    def pairwise(self, images: Images) -> Float[Tensor, " pairs"]:
        """Refuse: the score is of one image."""
        raise InterpError(
            asked="The aesthetic score of pairs of images was asked for.",
            exists="It is the score of one image.",
            todo="Compare pairs by SSCD, SSIM or LPIPS.",
        )

    def provenance(self) -> dict[str, Any]:
        of_clip = {key: value for key, value in self.clip.provenance().items() if key != "name"}
        head = {"head": self.head.name, "head_sha256": self.sha256}
        return {"name": self.name, **head, "clip": of_clip}


def _network(path: Path) -> nn.Sequential:
    """The head: linear layers with nothing between them, as in the authors' code."""
    try:
        state = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError, EOFError) as cause:
        raise _no_head(path, f"it is no file of weights ({type(cause).__name__})") from cause
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise _no_head(path, f"it holds a {type(state).__name__}, not a state dict")
    places = [""] if "weight" in state else [f"layers.{number}." for number in LAYERS]
    if set(state) != {f"{place}{part}" for place in places for part in ("weight", "bias")}:
        # Other places may mean activations between the layers, which weights do not show.
        raise _no_head(path, f"its weights are {', '.join(sorted(map(str, state))[:12])}")
    layers = []
    for place in places:
        weight, bias = state[f"{place}weight"].float(), state[f"{place}bias"].float()
        layer = nn.Linear(weight.shape[-1], len(weight))
        if weight.shape != layer.weight.shape or bias.shape != layer.bias.shape:
            raise _no_head(path, f"{place}weight is {tuple(weight.shape)}")
        layer.weight.data, layer.bias.data = weight, bias
        layers.append(layer)
    sizes = [layers[0].in_features, *(layer.out_features for layer in layers)]
    if sizes[-1] != 1 or any(a.out_features != b.in_features for a, b in pairwise(layers)):
        raise _no_head(path, f"its layers give {' -> '.join(map(str, sizes))} numbers")
    return nn.Sequential(*layers).eval().requires_grad_(False)


def _no_head(path: Path, why: str) -> InterpError:
    return InterpError(
        asked=f"Cannot load {path.name} as an aesthetic head.",
        exists=f"It is not one: {why}.",
        todo="Heads are one linear layer (weight, bias) or LAION's improved predictor (layers.0, "
        "2, 4, 6 and 7, each with weight and bias), with one output.",
    )
