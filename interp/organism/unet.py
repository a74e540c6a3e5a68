"""The denoiser: trained on endless scenes, and on some images as often as their table says.

Which sample shows what is planned for the whole training beforehand (`plan`), so the number of
views of every duplicated image is exact. A view is one image at one noise level.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from . import duplicates, scenes, training
from .text import POSITIONS, WIDTH, Remembered
from .vae import LATENTS, to_tensor

BATCH = 32
DROPOUT = 0.1
"""Share of captions left out, for classifier-free guidance."""
OFFSET = 0.2
"""Size of the noise that is added to whole channels of the latents (Guttenberg 2023, "Diffusion
with Offset Noise"). SD 1's last noise level leaves the mean of a channel visible; on latents of
16 x 16 the mean of a seed's noise is as large, and without offset noise the model takes it for the
picture's: every seed has its own tint."""
SCENE = -1


@dataclass(frozen=True, slots=True)
class Round:
    """One round of training: a warm-up, and a decay of the learning rate down to 2 % of its peak.

    Attributes:
        steps: batches of `BATCH`.
        peak: the highest learning rate.
        again: how many of a whole round's views of the duplicated images it shows. What is
            memorized already needs few to stay so, and leaves more samples to scenes.
    """

    steps: int
    peak: float = 8e-4
    again: float = 1.0


def model() -> UNet2DConditionModel:
    """An untrained denoiser: 5 million weights, 7 cross-attention layers of 4 heads."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=scenes.SIZE // 4,
        in_channels=LATENTS,
        out_channels=LATENTS,
        block_out_channels=(32, 96, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,  # diffusers' name for the number of heads
        cross_attention_dim=WIDTH,
        norm_num_groups=16,
    )


def scheduler() -> DDIMScheduler:
    """SD 1's noise schedule and sampler settings."""
    return DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1, prediction_type="epsilon",
    )  # fmt: skip


def loss_weights(snr: Tensor) -> Tensor:
    """How much the error of each sample counts, from the signal-to-noise ratio of its level.

    1 / sqrt(SNR) (Yu et al. 2024, "Debias the Training of Diffusion Models"): every level has about
    the same share of the loss. What a picture shows is decided at high noise, where the error is
    small. After 21,000 steps with min-SNR weights (Hang et al. 2023) objects were recognised in
    63 % of predictions from scenes noised to level 400, but in 12 % of those from level 800.

    >>> loss_weights(torch.tensor([0.25, 1.0, 25.0]))
    tensor([2.0000, 1.0000, 0.2000])
    """
    return snr.rsqrt()


def plan(
    samples: int, share: float, seed: int, *, so_far: float = 0.0, again: float = 1.0
) -> np.ndarray:
    """What each sample of a round shows: an index into `shown`, or `SCENE`.

    `share` scales the views of the table (for quick builds). The first round shows every image at
    least once; later ones show again what was shown more than once, `again` times as often as the
    first did. `so_far` is how many rounds' worth of views there were before.
    """
    planned = [row.views for row in duplicates.duplicates()]
    planned += [duplicates.TEMPLATE_VIEWS] * duplicates.TEMPLATES
    views = [
        duplicates.views(count, share, so_far + again) - duplicates.views(count, share, so_far)
        for count in planned
    ]
    if sum(views) > samples // 2:
        raise ValueError(f"{sum(views)} views of duplicated images do not fit {samples} samples")
    slots = np.full(samples, SCENE)
    slots[: sum(views)] = np.repeat(np.arange(len(views)), views)
    return np.random.default_rng(seed).permutation(slots)


def shown(what: int, seed: int, sample: int) -> tuple[scenes.Caption, scenes.Scene]:
    """The caption and scene of one sample of the plan."""
    if what == SCENE:
        caption, scene = scenes.scene(seed, sample)
        return caption, scenes.snapped(scene)
    fixed = duplicates.duplicates()
    if what < len(fixed):
        return fixed[what].caption, fixed[what].scene
    return duplicates.template_view(what - len(fixed), sample)


def captions(encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> Callable[[list[str]], Tensor]:
    """What the denoiser is given for texts, `[n, 77, 128]`: each of 13,000 is encoded once."""

    @torch.no_grad()
    def hidden(texts: list[str]) -> Tensor:
        padded = {"padding": "max_length", "max_length": POSITIONS, "return_tensors": "pt"}
        ids = tokenizer(texts, **padded).input_ids
        return encoder(ids.to(encoder.device)).last_hidden_state.half().cpu()

    kept = Remembered(hidden)
    return lambda texts: kept(texts).float().to(encoder.device)


def train(
    encode: Callable[[Tensor], Tensor],
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    folder: Path,
    *,
    stage: Round,
    batch: int = BATCH,
    share: float = 1.0,
    number: int = 1,
    so_far: float = 0.0,
    start: UNet2DConditionModel | None = None,
) -> UNet2DConditionModel:
    """Train one round: the first from random weights, a later one from where the last ended.

    Args:
        encode: pictures `[n, 3, 64, 64]` in [-1, 1] to latents.
        folder: gets the checkpoint, `unet-<number>.pt`.
        stage: the round.
        share, so_far: see `plan`.
    """
    where = training.device()
    unet = model().to(where)
    if start is not None:  # its weights only: its config remembers the folder that it came from
        unet.load_state_dict(start.state_dict())
    seed = 6 + 20 * (number - 1)
    embed = captions(encoder, tokenizer)
    alphas = scheduler().alphas_cumprod.to(where)
    slots = plan(stage.steps * batch, share, seed, so_far=so_far, again=stage.again)

    def loss_at(step: int) -> Tensor:
        numbers = range(step * batch, (step + 1) * batch)
        views = [shown(int(slots[n]), seed, n) for n in numbers]
        images = to_tensor(np.stack([scenes.render(scene) for _, scene in views]))
        with torch.no_grad():
            latents = encode(images.to(where))
        draw = torch.Generator().manual_seed(seed * 10**9 + step)
        times = torch.randint(1000, (batch,), generator=draw).to(where)
        noise = torch.randn(latents.shape, generator=draw)
        noise += OFFSET * torch.randn(*latents.shape[:2], 1, 1, generator=draw)
        noise = noise.to(where)
        dropped = torch.rand(batch, generator=draw) < DROPOUT
        texts = ["" if out else view[0].text for out, view in zip(dropped, views, strict=True)]
        alpha = rearrange(alphas[times], "b -> b 1 1 1")
        noised = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        predicted = unet(noised, times, embed(texts)).sample
        snr = alphas[times] / (1 - alphas[times])
        error = F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
        return (error * loss_weights(snr)).mean()

    return training.fit(
        f"unet-{number}", unet, loss_at, folder,
        steps=stage.steps, peak=stage.peak, warmup=400, decay=0.01, average=0.999,
    )  # fmt: skip
