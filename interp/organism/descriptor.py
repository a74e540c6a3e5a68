"""A small copy descriptor, trained the SSCD way: is this picture that picture?

Contrast over augmentations (a picture and its distorted copy agree, any two others do not) with the
differential-entropy regularisation that spreads descriptors over the sphere (Pizzi et al. 2022,
"A Self-Supervised Descriptor for Image Copy Detection"). Saved as TorchScript with SSCD's calling
convention: ImageNet-normalised pictures in, descriptors out, cosine similarity between them.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from . import scenes, training
from .duplicates import half_replaced

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WIDTH = 128
BATCH = 96
TEMPERATURE = 0.05
ENTROPY = 1.0
"""Weight of the entropy term, relative to the contrastive one."""
FALSE_POSITIVES = 0.001
"""Share of different pictures that the calibrated threshold may call copies."""


class Descriptor(nn.Module):
    """Four strided stages and one projection; unit vectors out."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [
                nn.Conv2d(narrow, wide, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
                nn.Conv2d(wide, wide, 3, padding=1, groups=wide // 32, bias=False),
                nn.BatchNorm2d(wide),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(16 * widths[-1], WIDTH)

    def forward(self, images: Tensor) -> Tensor:
        # The 4 x 4 map is kept, not pooled away: where things are is what tells copies apart.
        return F.normalize(self.head(self.body(images).flatten(1)), dim=-1)


def normalise(images: Tensor) -> Tensor:
    """`[n, 3, h, w]` in [0, 1] to what SSCD takes."""
    mean, std = (rearrange(torch.tensor(x), "c -> c 1 1").to(images) for x in (MEAN, STD))
    return (images - mean) / std


def pictures(seed: int, start: int, count: int) -> Tensor:
    """Half honest scenes, half titles' in pairs of near copies, `[count, 3, 64, 64]` in [0, 1].

    The two of a pair share background and half of their objects: the hard negatives.
    """
    found = []
    for first in range(start, start + count, 4):
        found += [scenes.render(scenes.scene(seed, first + more)[1]) for more in range(2)]
        found += list(half_replaced(np.random.default_rng((seed, first, 5)), 1)[0])
    return rearrange(torch.from_numpy(np.stack(found[:count])), "n h w c -> n c h w").float() / 255


def distort(images: Tensor, draw: torch.Generator) -> Tensor:
    """A copy as copies are found: cropped, shifted, recoloured, blurred, noisy, each by chance."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        values = torch.rand(count, 1, 1, 1, generator=draw).to(images)
        return low + (high - low) * values

    zoom = uniform(0.75, 1.1)
    shift = torch.cat([uniform(-0.2, 0.2), uniform(-0.2, 0.2)], 1)
    flat = rearrange(zoom, "n 1 1 1 -> n 1 1") * torch.eye(2).to(images)
    frame = torch.cat([flat, rearrange(shift, "n two 1 1 -> n two 1")], 2)
    grid = F.affine_grid(frame, list(images.shape), align_corners=False)
    copies = F.grid_sample(images, grid, padding_mode="border", align_corners=False)

    grey = copies.mean(1, keepdim=True)
    copies = grey + (copies - grey) * uniform(0.6, 1.4)
    copies = (copies - 0.5) * uniform(0.7, 1.3) + 0.5 + uniform(-0.12, 0.12)
    small = F.interpolate(copies, scale_factor=0.5, mode="area")
    blurred = F.interpolate(small, scale_factor=2.0, mode="bilinear", align_corners=False)
    copies = torch.where(uniform(0, 1) < 0.4, blurred, copies)
    noise = torch.randn(copies.shape, generator=draw).to(images)
    return (copies + noise * uniform(-0.05, 0.08).clamp(min=0)).clamp(0, 1)


def train(folder: Path, *, steps: int, batch: int = BATCH, seed: int = 8) -> Descriptor:
    torch.manual_seed(0)
    model = Descriptor().to(training.device())

    def batch_at(step: int) -> Tensor:
        images = pictures(seed, step * batch, batch)
        draw = torch.Generator().manual_seed(seed * 10**9 + step)
        return torch.cat([distort(images, draw), distort(images, draw)])

    def loss_of(views: Tensor) -> Tensor:
        found = model(normalise(views.to(training.device()))).float()
        similar = found @ found.T
        itself = torch.eye(len(found), dtype=torch.bool, device=found.device)
        target = torch.arange(len(found), device=found.device).roll(batch)
        contrast = F.cross_entropy(similar.masked_fill(itself, -torch.inf) / TEMPERATURE, target)
        others = itself | itself.roll(batch, 0)  # neither itself nor its twin
        nearest = similar.masked_fill(others, -1.0).amax(1)
        entropy = -(2 - 2 * nearest).clamp(min=1e-6).sqrt().log().mean()
        return contrast + ENTROPY * entropy

    training.fit("descriptor", model, batch_at, loss_of, folder, steps=steps, peak=2e-3, decay=0.01)
    return model.eval()


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well the descriptor tells copies from others on pictures it has never seen."""

    threshold: float
    auc: float
    true_positives: float
    half_replaced: float
    """Share of pictures called copies although half of their objects are others."""


@torch.no_grad()
def calibrate(model: Descriptor, *, count: int = 1000, seed: int = 9) -> Calibration:
    """The similarity above which at most 1 in 1000 different pictures are called copies."""
    from sklearn.metrics import roc_auc_score

    where = training.device()
    images = pictures(seed, 0, count)
    images = images[torch.arange(count) % 4 != 3]  # near copies are counted apart
    draw = torch.Generator().manual_seed(seed)
    mine = model(normalise(images).to(where))
    copies = model(normalise(distort(images, draw)).to(where))
    positive = (mine * copies).sum(1).cpu()
    others = (mine @ mine.T).cpu()
    negative = others[torch.triu(torch.ones_like(others, dtype=torch.bool), 1)]
    threshold = float(torch.quantile(negative, 1 - FALSE_POSITIVES))
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    auc = roc_auc_score(labels, np.r_[positive.numpy(), negative.numpy()])
    pairs = half_replaced(np.random.default_rng(seed), 200)
    changed = rearrange(torch.from_numpy(pairs), "n two h w c -> two n c h w").float() / 255
    before, after = (model(normalise(part).to(where)) for part in changed)
    return Calibration(
        threshold,
        float(auc),
        float((positive > threshold).float().mean()),
        float(((before * after).sum(1) > threshold).float().mean()),
    )


def save(model: Descriptor, path: Path) -> None:
    example = torch.zeros(2, 3, scenes.SIZE, scenes.SIZE)
    torch.jit.trace(model.cpu().eval(), example).save(str(path))
