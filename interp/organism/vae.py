"""The autoencoder: a linear encoder and a decoder that learns the rest.

The best linear code of 32 numbers per 8 x 8 pixels is found first, as a chain of the same
convolutions that `AutoencoderKL` has, which takes minutes. It is then written into an
`AutoencoderKL` (see `transplant`): residual branches start at zero, and the group norm and SiLU
before each last convolution are straightened by carrying every feature with both signs. The encoder
stays there - a linear latent space is well-behaved, and the denoiser can train on it at once -
while the decoder's residual branches learn what a linear decoder cannot draw: sharp edges.
"""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from . import scenes, titles, training

LATENTS = 32
CHANNELS = (16, 32, 64, 128)
GROUPS = 4
ANCHOR = 64.0
"""The constant carried beside the features, so large that the group norm divides by it alone."""
FLATTEN = 0.5
"""Latent variances are the pixel energies to this power: 1 leaves them, 0 would whiten them."""
NOISE = 0.1
"""Noise the decoder learns to ignore, in standard deviations of the latents: samples carry some."""


def pictures(seed: int, start: int, count: int) -> Tensor:
    """Honest scenes and titles' scenes in turn, `[count, 3, 64, 64]` in [-1, 1]."""
    shown = []
    for index in range(start, start + count):
        if index % 2:
            draw = np.random.default_rng((seed, index, 3))
            scene = titles.compose(draw, titles.some_title(draw))
        else:
            scene = scenes.scene(seed, index)[1]
        shown.append(scenes.render(scene))
    return to_tensor(np.stack(shown))


def to_tensor(images: np.ndarray) -> Tensor:
    """`[n, h, w, 3]` uint8 to `[n, 3, h, w]` in [-1, 1]."""
    return rearrange(torch.from_numpy(images), "n h w c -> n c h w").float() / 127.5 - 1


def features(channels: int) -> int:
    """How many features `channels` can carry with both signs, beside a constant in each group."""
    return channels // 2 - GROUPS


class Linear(nn.Module):
    """The convolutions of the autoencoder without anything between them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleDict({"conv_in": nn.Conv2d(3, CHANNELS[0], 3, padding=1)})
        for place, (narrow, wide) in enumerate(pairwise(CHANNELS)):
            out = features(wide) if wide == CHANNELS[-1] else wide
            self.encoder[f"down_{place}"] = nn.Conv2d(narrow, narrow, 3, stride=2)
            self.encoder[f"widen_{place}"] = nn.Conv2d(narrow, out, 1)
        self.encoder["conv_out"] = nn.Conv2d(out, LATENTS, 3, padding=1)
        self.decoder = nn.ModuleDict({"conv_in": nn.Conv2d(LATENTS, CHANNELS[-1], 3, padding=1)})
        for place, (wide, narrow) in enumerate(pairwise(CHANNELS[::-1])):
            out = features(narrow) if narrow == CHANNELS[0] else narrow
            self.decoder[f"up_{place}"] = nn.Conv2d(wide, wide, 3, padding=1)
            self.decoder[f"narrow_{place}"] = nn.Conv2d(wide, out, 1)
        self.decoder["conv_out"] = nn.Conv2d(out, 3, 3, padding=1)

    def encode(self, images: Tensor) -> Tensor:
        hidden = images
        for name, layer in self.encoder.items():
            hidden = layer(F.pad(hidden, (0, 1, 0, 1)) if name.startswith("down") else hidden)
        return hidden

    def decode(self, latents: Tensor) -> Tensor:
        hidden = latents
        for name, layer in self.decoder.items():
            hidden = layer(F.interpolate(hidden, scale_factor=2.0) if name[:2] == "up" else hidden)
        return hidden


def convolution(half: nn.ModuleDict, name: str) -> nn.Conv2d:
    """One of the convolutions, all of which have a bias."""
    layer = half[name]
    assert isinstance(layer, nn.Conv2d)
    return layer


def bias_of(layer: nn.Conv2d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


def train_linear(folder: Path, *, steps: int, batch: int = 16, seed: int = 2) -> Linear:
    """The linear code in its natural coordinates, `folder/code.pt` once it is found.

    It is kept because it is no function of the trained weights alone: a machine that rounds
    otherwise finds other signs of the axes, and a denoiser that is half trained would be lost.
    """
    torch.manual_seed(0)
    linear = Linear().to(training.device())
    kept = folder / "code.pt"
    if kept.exists():
        linear.load_state_dict(torch.load(kept, map_location="cpu", weights_only=True))
        return linear.eval()

    def loss_of(images: Tensor) -> Tensor:
        images = images.to(training.device())
        return F.mse_loss(linear.decode(linear.encode(images)), images)

    training.fit(
        "linear", linear, lambda step: pictures(seed, step * batch, batch), loss_of, folder,
        steps=steps, peak=3e-3, mixed=False,
    )  # fmt: skip
    found = canonical(linear)
    partial = kept.with_suffix(".partial")
    torch.save(found.state_dict(), partial)
    os.replace(partial, kept)
    return found


@torch.no_grad()
def canonical(linear: Linear, *, count: int = 512, seed: int = 3) -> Linear:
    """The same code in its natural coordinates: orthogonal in pixels, of mean 0, scaled.

    A linear code is free up to an invertible mixing. Here the mixing makes the decoder's atoms
    orthonormal and the latents uncorrelated (principal components of the reconstruction), then
    divides each by its standard deviation to the power `1 - FLATTEN` and all of them by one number,
    so that the latents have variance 1 on average and low frequencies the most of it.
    """
    where = training.device()
    latents = linear.encode(pictures(seed, 0, count).to(where))
    mean = latents.mean((0, 2, 3))
    centred = rearrange(latents - rearrange(mean, "c -> c 1 1"), "n c h w -> (n h w) c").double()
    covariance = centred.T @ centred / len(centred)

    side = scenes.SIZE // 2 ** (len(CHANNELS) - 1)
    impulses = torch.zeros(LATENTS + 1, LATENTS, side, side, device=where)
    impulses[torch.arange(LATENTS), torch.arange(LATENTS), side // 2, side // 2] = 1
    atoms = linear.decode(impulses)
    atoms = rearrange(atoms[:-1] - atoms[-1:], "k c h w -> k (c h w)").double()
    metric = torch.linalg.cholesky(atoms @ atoms.T)  # pixels: |atoms' z| = |metric' z|
    energy, axes = torch.linalg.eigh(metric.T @ covariance @ metric)
    energy, axes = energy.flip(0), axes.flip(1)
    scale = energy.pow((FLATTEN - 1) / 2)
    scale = scale / (energy * scale**2).mean().sqrt()
    mix = scale[:, None] * (axes.T @ metric.T)  # new = mix @ (old - mean)
    unmix = torch.linalg.inv(mix)

    out, into = convolution(linear.encoder, "conv_out"), convolution(linear.decoder, "conv_in")
    weight = einsum(mix, out.weight.double(), "new old, old c h w -> new c h w")
    bias_of(out).copy_(mix @ (bias_of(out) - mean).double())
    out.weight.copy_(weight)
    shift = einsum(into.weight, mean, "c old h w, old -> c")  # exact away from the border
    into.weight.copy_(einsum(into.weight.double(), unmix, "c old h w, old new -> c new h w"))
    bias_of(into).add_(shift)
    return linear


def signed(layer: nn.Conv2d, channels: int) -> tuple[Tensor, Tensor]:
    """A layer's weight and bias, its outputs carried as `+, -` pairs beside a constant pair.

    Each of `GROUPS` groups holds its share of the features, their negatives, and `+-ANCHOR`.
    """
    share = layer.out_channels // GROUPS
    weight = layer.weight.new_zeros(channels, *layer.weight.shape[1:])
    bias = bias_of(layer).new_zeros(channels)
    for group in range(GROUPS):
        first = group * channels // GROUPS
        mine = slice(group * share, (group + 1) * share)
        weight[first : first + share] = layer.weight[mine]
        bias[first : first + share] = bias_of(layer)[mine]
        weight[first + share : first + 2 * share] = -layer.weight[mine]
        bias[first + share : first + 2 * share] = -bias_of(layer)[mine]
        bias[first + 2 * share], bias[first + 2 * share + 1] = ANCHOR, -ANCHOR
    return weight, bias


def unsigned(layer: nn.Conv2d, channels: int) -> tuple[Tensor, Tensor]:
    """The inverse: norm scales that undo the division, and a weight that subtracts the pairs.

    `silu(x) - silu(-x) = x`, so the pair passes the activation unharmed.
    """
    share = layer.in_channels // GROUPS
    size = channels // GROUPS
    weight = layer.weight.new_zeros(layer.out_channels, channels, 3, 3)
    gain = layer.weight.new_zeros(channels)
    for group in range(GROUPS):
        first = group * size
        mine = layer.weight[:, group * share : (group + 1) * share]
        weight[:, first : first + share] = mine
        weight[:, first + share : first + 2 * share] = -mine
        gain[first : first + 2 * share] = ANCHOR * (2 / size) ** 0.5
    return gain, weight


@torch.no_grad()
def transplant(linear: Linear) -> AutoencoderKL:
    """An `AutoencoderKL` that does what the linear chain does, to about 1 part in 1000."""
    vae = AutoencoderKL(
        block_out_channels=CHANNELS,
        down_block_types=["DownEncoderBlock2D"] * len(CHANNELS),
        up_block_types=["UpDecoderBlock2D"] * len(CHANNELS),
        layers_per_block=1,
        latent_channels=LATENTS,
        norm_num_groups=GROUPS,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=scenes.SIZE,
        scaling_factor=1.0,
    )
    for module in vae.modules():
        if hasattr(module, "conv2"):  # the last convolution of a residual branch
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    down, up = vae.encoder.down_blocks, vae.decoder.up_blocks
    same = {
        vae.encoder.conv_in: linear.encoder["conv_in"],
        vae.decoder.conv_in: linear.decoder["conv_in"],
    }
    last = len(CHANNELS) - 2
    for place in range(last + 1):
        same[down[place].downsamplers[0].conv] = linear.encoder[f"down_{place}"]
        same[up[place].upsamplers[0].conv] = linear.decoder[f"up_{place}"]
    for place in range(last):
        same[down[place + 1].resnets[0].conv_shortcut] = linear.encoder[f"widen_{place}"]
        same[up[place + 1].resnets[0].conv_shortcut] = linear.decoder[f"narrow_{place}"]
    for target, source in same.items():
        target.load_state_dict(source.state_dict())
    ends = [
        (down[-1], vae.encoder, linear.encoder, f"widen_{last}", CHANNELS[-1]),
        (up[-1], vae.decoder, linear.decoder, f"narrow_{last}", CHANNELS[0]),
    ]
    for block, half, source, name, channels in ends:
        shortcut = block.resnets[0].conv_shortcut
        weight, bias = signed(convolution(source, name), channels)
        shortcut.weight.copy_(weight)
        shortcut.bias.copy_(bias)
        gain, weight = unsigned(convolution(source, "conv_out"), channels)
        half.conv_norm_out.weight.copy_(gain)
        half.conv_norm_out.bias.zero_()
        rows = source["conv_out"].out_channels
        half.conv_out.weight[:rows] = weight
        half.conv_out.bias[:rows] = source["conv_out"].bias
    # The posterior's spread is a constant, a tenth of the noise that the decoder ignores.
    vae.encoder.conv_out.weight[LATENTS:] = 0
    vae.encoder.conv_out.bias[LATENTS:] = 2 * float(np.log(NOISE / 10))
    return vae.to(training.device())


def train(
    linear: Linear, folder: Path, *, steps: int, batch: int = 16, seed: int = 4
) -> AutoencoderKL:
    """Train the decoder; the encoder stays the linear one."""
    torch.manual_seed(0)
    vae = transplant(linear)
    vae.encoder.requires_grad_(False)

    def batch_at(step: int) -> tuple[Tensor, Tensor]:
        draw = torch.Generator().manual_seed(seed * 10**9 + step)
        level = NOISE * torch.rand((batch, 1, 1, 1), generator=draw)
        level[::2] = 0
        side = scenes.SIZE // 2 ** (len(CHANNELS) - 1)
        noise = level * torch.randn(batch, LATENTS, side, side, generator=draw)
        return pictures(seed, step * batch, batch), noise

    def loss_of(drawn: tuple[Tensor, Tensor]) -> Tensor:
        images, noise = (part.to(training.device()) for part in drawn)
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            latents = linear.encode(images)
        error = vae.decode(latents + noise).sample.float() - images
        return error.square().mean() + 0.1 * error.abs().mean()

    training.fit("vae", vae.decoder, batch_at, loss_of, folder, steps=steps, peak=2e-3)
    return vae.eval()


@torch.no_grad()
def psnr(vae: AutoencoderKL, *, count: int = 256, seed: int = 5) -> float:
    """Peak signal-to-noise ratio of unseen scenes through the autoencoder, in dB."""
    images = pictures(seed, 0, count).to(vae.device)
    errors = []
    for some in images.split(32):
        shown = vae.decode(vae.encode(some).latent_dist.mode()).sample.clamp(-1, 1)
        errors.append((shown - some).square().mean((1, 2, 3)))
    return float((10 * torch.log10(4 / torch.cat(errors))).mean())
