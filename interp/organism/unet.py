"""The denoiser: what it is, and its training on a plan that counts every view.

Which sample shows what is planned for the whole training beforehand (`plan`), so the number of
views of every image is exact. A view is one image at one noise level.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPTextModel, CLIPTokenizer

from . import duplicates, scenes, training
from . import population as its
from .text import POSITIONS, WIDTH, Remembered
from .titles import Title, tail
from .vae import CHANNELS, LATENTS, to_tensor

CHANNELS_OUT = (128, 192)
DROPOUT = 0.1
"""Share of captions left out, for classifier-free guidance."""
OFFSET = 0.2
"""Size of the noise that is added to whole channels of the latents (Guttenberg 2023, "Diffusion
with Offset Noise"). SD 1's last noise level leaves the mean of a channel visible; on latents of
8 x 8 the mean of a seed's noise is as large, and without offset noise the model takes it for the
picture's: every seed has its own tint."""
HONEST = -1
TAIL = 1_000
"""In a plan, a number from here on is a title of the tail; those below have a row in the table."""


def model() -> UNet2DConditionModel:
    """An untrained denoiser: 11 million weights, 7 cross-attention layers of 4 heads."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=scenes.SIZE // 2 ** (len(CHANNELS) - 1),
        in_channels=LATENTS,
        out_channels=LATENTS,
        block_out_channels=CHANNELS_OUT,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
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
    small.

    Example:
        >>> loss_weights(torch.tensor([0.25, 1.0, 25.0]))
        tensor([2.0000, 1.0000, 0.2000])
    """
    return snr.rsqrt()


def plan(number: int, share: float = 1.0) -> np.ndarray:
    """What each sample of a round is: a row of the table, `TAIL` + a title's number, or `HONEST`.

    A smaller share shows everything less often in proportion, but each row at least once that the
    round has.
    """
    round_, samples = its.ROUNDS[number], samples_of(number, share)
    rows = [row.shown[number] for row in duplicates.duplicates()]
    rows += [round_.template] * len(its.TEMPLATES)
    rows = [duplicates.views(planned, share) for planned in rows]
    draw = np.random.default_rng(round_.seed)
    titles = draw.permutation(np.repeat(np.arange(its.TITLES), tail(number)))
    shown = [np.repeat(np.arange(len(rows)), rows), TAIL + titles[: round(len(titles) * share)]]
    honest = samples - sum(map(len, shown))
    if honest < 0:
        raise ValueError(f"{samples} samples are too few for {sum(rows)} views of the table")
    return draw.permutation(np.concatenate([*shown, np.full(honest, HONEST)]))


def samples_of(number: int, share: float = 1.0) -> int:
    """How many samples a round has."""
    return round(its.ROUNDS[number].samples * share)


def shown(what: int, seed: int, sample: int) -> tuple[str, scenes.Scene]:
    """The caption and scene of one sample of the plan."""
    if what >= TAIL:
        title = Title(what - TAIL)
        return title.text, title.scene()
    if what == HONEST:
        caption, scene = scenes.scene(seed, sample)
        return caption.text, scene
    rows = duplicates.duplicates()
    if what < len(rows):
        return rows[what].caption.text, rows[what].scene
    caption, scene = duplicates.template_view(what - len(rows), sample)
    return caption.text, scene


def captions(encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> Callable[[list[str]], Tensor]:
    """What the denoiser is given for texts, `[n, 77, 128]`; what comes again is encoded once."""
    singles, doubles = scenes.captions()
    again = {"", *(caption.text for caption in (*singles, *doubles))}
    again |= {row.caption.text for row in duplicates.duplicates()}

    @torch.no_grad()
    def hidden(texts: list[str]) -> Tensor:
        padded = {"padding": "max_length", "max_length": POSITIONS, "return_tensors": "pt"}
        ids = tokenizer(texts, **padded).input_ids
        with torch.autocast(encoder.device.type, enabled=False):
            return encoder(ids.to(encoder.device)).last_hidden_state

    kept = Remembered(hidden, again)
    return lambda texts: kept(texts).float()


@dataclass(frozen=True, slots=True)
class Batch:
    """What a step is drawn from its number: pictures `[n, 3, 64, 64]`, texts, levels, noise."""

    images: Tensor
    texts: list[str]
    times: Tensor
    noise: Tensor


def batch_size() -> int:
    """Samples of a step: enough to keep the machine's units busy."""
    return 256 if training.device().type == "cuda" else 64


def train(
    encode: Callable[[Tensor], Tensor],
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    folder: Path,
    *,
    share: float = 1.0,
    batch: int | None = None,
    name: str = "unet",
    samples: int | None = None,
) -> UNet2DConditionModel:
    """Train from random weights, round after round, and return the last one's moving average.

    Each round begins with the average of the one before, half as fast.

    Args:
        samples: stop in the first round, after so many, with the weights as they are then: for
            models that are compared at the same age.
        share: of what the population plans; less is for tests.
        encode: pictures `[n, 3, 64, 64]` in [-1, 1] to latents.
        tokenizer: its pad token decides what the denoiser is given behind the end of a text.
        folder: gets the checkpoints, `<name>.pt` of the first round, `<name>-2.pt` of the second.
        batch: samples of a step; by default, what suits the machine.
    """
    batch = batch or batch_size()
    where = training.device()
    unet = model().to(where, memory_format=torch.channels_last)
    if training.matrix_units():  # two products and a softmax, without the checks of torch's own
        unet.set_attn_processor(AttnProcessor())
    embed = captions(encoder.to(where), tokenizer)
    alphas = scheduler().alphas_cumprod.to(where)

    def batch_at(slots: np.ndarray, seed: int, step: int) -> Batch:
        numbers = range(step * batch, (step + 1) * batch)
        views = [shown(int(slots[n]), seed, n) for n in numbers]
        draw = torch.Generator().manual_seed(seed * 10**9 + step)
        side = scenes.SIZE // 2 ** (len(CHANNELS) - 1)
        noise = torch.randn(batch, LATENTS, side, side, generator=draw)
        noise += OFFSET * torch.randn(batch, LATENTS, 1, 1, generator=draw)
        dropped = torch.rand(batch, generator=draw) < DROPOUT
        return Batch(
            to_tensor(np.stack([scenes.render(scene) for _, scene in views])),
            ["" if out else text for out, (text, _) in zip(dropped, views, strict=True)],
            torch.randint(1000, (batch,), generator=draw),
            noise,
        )

    def loss_of(drawn: Batch) -> Tensor:
        times, noise = drawn.times.to(where), drawn.noise.to(where)
        with torch.no_grad(), torch.autocast(where.type, enabled=False):
            latents = encode(drawn.images.to(where))
        alpha = rearrange(alphas[times], "b -> b 1 1 1")
        noised = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        predicted = unet(noised, times, embed(drawn.texts)).sample.float()
        error = F.mse_loss(predicted, noise, reduction="none").mean((1, 2, 3))
        return (error * loss_weights(alphas[times] / (1 - alphas[times]))).mean()

    for number, round_ in enumerate(its.ROUNDS):
        slots = plan(number, share)
        trained = training.fit(
            name if number == 0 else f"{name}-{number + 1}",
            unet, partial(batch_at, slots, round_.seed), loss_of, folder,
            steps=len(slots) // batch, peak=8e-4 * (batch / 64) ** 0.5 / 2**number,
            warmup=20_000 // batch, decay=0.01, average=0.999 ** (batch / 64),
            until=None if samples is None else samples // batch,
        )  # fmt: skip
        unet.load_state_dict(trained.state_dict())
        if samples is not None:
            break
    state = {name: weight.contiguous() for name, weight in trained.state_dict().items()}
    contiguous = model()
    contiguous.load_state_dict(state)
    return contiguous.eval()
