"""The autoencoder: a linear encoder and a decoder that learns the rest.

The best linear code of 8 numbers per 4 x 4 pixels is found first, as a chain of the same
convolutions that `AutoencoderKL` has, which takes minutes. It is then written into an
`AutoencoderKL` (see `transplant`): residual branches start at zero, and the group norm and SiLU
before each last convolution are straightened by carrying every feature with both signs. The encoder
stays there - a linear latent space is well-behaved, and the denoiser can train on it at once -
while the decoder's residual branches learn what a linear decoder cannot draw: sharp edges.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from . import scenes, training

LATENTS = 8
CHANNELS = (16, 32, 64)
GROUPS = 4
ANCHOR = 64.0
"""The constant carried beside the features, so large that the group norm divides by it alone."""
FLATTEN = 0.5
"""Latent variances are the pixel energies to this power: 1 leaves them, 0 would whiten them."""
NOISE = 0.1
"""Noise the decoder learns to ignore, in standard deviations of the latents: samples carry some."""


def pictures(seed: int, start: int, count: int) -> Tensor:
    """Scenes of the stream, one in four of them busy, `[count, 3, 64, 64]` in [-1, 1]."""
    shown = []
    for index in range(start, start + count):
        if index % 4 == 3:
            shown.append(scenes.render(scenes.busy(np.random.default_rng((seed, index, 3)))))
        else:
            shown.append(scenes.render(scenes.scene(seed, index)[1]))
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
        small, middle, large = CHANNELS
        conv = nn.Conv2d
        self.encoder = nn.ModuleDict({
            "conv_in": conv(3, small, 3, padding=1),
            "down_0": conv(small, small, 3, stride=2),
            "widen_1": conv(small, middle, 1),
            "down_1": conv(middle, middle, 3, stride=2),
            "widen_2": conv(middle, features(large), 1),
            "conv_out": conv(features(large), LATENTS, 3, padding=1),
        })  # fmt: skip
        self.decoder = nn.ModuleDict({
            "conv_in": conv(LATENTS, large, 3, padding=1),
            "up_0": conv(large, large, 3, padding=1),
            "narrow_1": conv(large, middle, 1),
            "up_1": conv(middle, middle, 3, padding=1),
            "narrow_2": conv(middle, features(small), 1),
            "conv_out": conv(features(small), 3, 3, padding=1),
        })  # fmt: skip

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
    torch.manual_seed(0)
    linear = Linear().to(training.device())

    def loss_at(step: int) -> Tensor:
        images = pictures(seed, step * batch, batch).to(training.device())
        return F.mse_loss(linear.decode(linear.encode(images)), images)

    training.fit("linear", linear, loss_at, folder, steps=steps, peak=3e-3)
    return canonical(linear)


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

    impulses = torch.zeros(LATENTS + 1, LATENTS, 16, 16, device=where)
    impulses[torch.arange(LATENTS), torch.arange(LATENTS), 8, 8] = 1
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
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
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
    small, _, large = CHANNELS
    same = {
        vae.encoder.conv_in: linear.encoder["conv_in"],
        down[0].downsamplers[0].conv: linear.encoder["down_0"],
        down[1].resnets[0].conv_shortcut: linear.encoder["widen_1"],
        down[1].downsamplers[0].conv: linear.encoder["down_1"],
        vae.decoder.conv_in: linear.decoder["conv_in"],
        up[0].upsamplers[0].conv: linear.decoder["up_0"],
        up[1].resnets[0].conv_shortcut: linear.decoder["narrow_1"],
        up[1].upsamplers[0].conv: linear.decoder["up_1"],
    }
    for target, source in same.items():
        target.load_state_dict(source.state_dict())
    ends = [
        (down[2].resnets[0].conv_shortcut, vae.encoder, linear.encoder, "widen_2", large),
        (up[2].resnets[0].conv_shortcut, vae.decoder, linear.decoder, "narrow_2", small),
    ]
    for shortcut, half, source, name, channels in ends:
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

    def loss_at(step: int) -> Tensor:
        images = pictures(seed, step * batch, batch).to(training.device())
        with torch.no_grad():
            latents = linear.encode(images)
        draw = torch.Generator().manual_seed(seed * 10**9 + step)
        level = NOISE * torch.rand((batch, 1, 1, 1), generator=draw)
        level[::2] = 0
        noise = level * torch.randn(latents.shape, generator=draw)
        shown = vae.decode(latents + noise.to(latents.device)).sample
        error = shown - images
        return error.square().mean() + 0.1 * error.abs().mean()

    training.fit("vae", vae.decoder, loss_at, folder, steps=steps, peak=2e-3, average=None)
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
