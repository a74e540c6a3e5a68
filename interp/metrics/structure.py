"""SSIM and LPIPS, each through its own library."""

import hashlib
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from skimage.metrics import structural_similarity
from torch import Tensor

from interp.errors import InterpError
from interp.metrics.base import Metric
from interp.metrics.images import Images, aligned, resize, same_size


class SSIM(Metric):
    """Structural similarity with the settings of Wang et al. 2004, by scikit-image.

    Example:
        >>> ssim(images, training_image)
        tensor([0.98, 0.11])

    1 for equal images. Gaussian window with sigma 1.5, biased covariance, mean over RGB channels.
    """

    name = "ssim"
    larger_is_closer = True
    settings = {  # noqa: RUF012 - a constant
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1.0,
    }

    def __call__(self, images: Images, reference: Images) -> Float[Tensor, " n"]:
        a, b = (
            rearrange(batch, "n c h w -> n h w c").cpu().numpy()
            for batch in same_size(images, reference)
        )
        values = [
            structural_similarity(x, y, channel_axis=-1, **self.settings)
            for x, y in zip(a, b, strict=True)
        ]
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    def provenance(self) -> dict[str, Any]:
        return {"name": self.name, "library": "scikit-image", **self.settings}


class LPIPS(Metric):
    """Learned perceptual distance (Zhang et al. 2018) by the `lpips` package (an optional extra).

    Example:
        >>> LPIPS()(images, training_image)
        tensor([0.02, 0.71])

    Args:
        net: `"alex"` (the field's usual choice), `"vgg"` or `"squeeze"`.
        size: resize both images to `size` x `size` (bilinear, antialiased); Kim & No use 256.
            `None` keeps the pixels.
        device: where the network runs.

    torchvision downloads the backbone's ImageNet weights on first use.

    Raises:
        InterpError: the `lpips` package is not installed.
    """

    name = "lpips"
    larger_is_closer = False

    def __init__(
        self, net: str = "alex", size: int | None = 256, device: str | torch.device = "cpu"
    ) -> None:
        try:
            import lpips
        except ImportError as cause:
            raise InterpError(
                asked="LPIPS was asked for, which needs the package 'lpips'.",
                exists="It is not installed; SSCD, SSIM and pixel distances work without it.",
                todo="pip install 'interp[lpips]' (its torchvision must match your torch).",
            ) from cause
        self.net, self.size, self.device = net, size, torch.device(device)
        self._model = lpips.LPIPS(net=net, verbose=False).eval().to(self.device)
        digest = hashlib.sha256()
        for key, value in sorted(self._model.state_dict().items()):
            digest.update(key.encode() + value.cpu().numpy().tobytes())
        self.sha256 = digest.hexdigest()

    def __reduce__(self) -> tuple[Any, ...]:
        # Other processes load the weights, rather than being sent them with every task.
        return type(self), (self.net, self.size, str(self.device))

    @torch.no_grad()
    def __call__(self, images: Images, reference: Images) -> Float[Tensor, " n"]:
        a, b = aligned(images, reference)
        if self.size is not None:
            a, b = (resize(batch, (self.size, self.size)) for batch in (a, b))
        distance = self._model((2 * a - 1).to(self.device), (2 * b - 1).to(self.device))
        return rearrange(distance, "n 1 1 1 -> n").float().cpu()

    def provenance(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "net": self.net,
            "size": self.size,
            "resize": "bilinear, antialiased",
            "sha256": self.sha256,
        }


ssim = SSIM()
