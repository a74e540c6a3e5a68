"""A LoRA of the embedded model, trained in a minute on ten scenes, three of which are repeated.

    python -m analyses.fine_tune --folder out/tuned/set --to out/tuned/lora.safetensors
    interp audit --data out/tuned/set --lora out/tuned/lora.safetensors

What an audit must find is known: the scenes that are shown twenty times, and no others.
"""

from pathlib import Path

import numpy as np
import torch
import typer
from einops import rearrange
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from tqdm.auto import tqdm

import interp as ip
from interp.organism import scenes, titles

TIMES = (20, 20, 20, 1, 1, 1, 1, 1, 1, 1)
"""How often each of the ten lies in the training set."""
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2", "ff.net.0.proj", "ff.net.2"]
BATCH = 16


def training_set(folder: Path) -> list[str]:
    """Write the images, as often as they are shown, each with its caption beside; the captions."""
    folder.mkdir(parents=True, exist_ok=True)
    some = titles.special()[2][: len(TIMES)]
    for number, (title, times) in enumerate(zip(some, TIMES, strict=True)):
        for again in range(times):
            file = folder / f"{number}-{again:02d}.png"
            Image.fromarray(scenes.render(title.scene())).save(file)
            file.with_suffix(".txt").write_text(title.text)
    return [title.text for title in some]


def train(folder: Path, to: Path, steps: int = 130) -> None:
    """Train a LoRA of the embedded model's denoiser on that folder, and save it as trainers do."""
    sd, pairs = ip.load(), ip.audit.read_pairs(folder)
    pipe, draw = sd.pipe, torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipe.unet.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=LAYERS))
    pixels = np.stack([np.asarray(pair.image()) for pair in pairs])
    images = rearrange(torch.from_numpy(pixels), "n h w c -> n c h w").float() / 127.5 - 1
    with torch.no_grad():
        latents = pipe.vae.encode(images).latent_dist.mean * pipe.vae.config.scaling_factor
    embeds = torch.stack([prompt.embeds for prompt in sd.encode([pair.text for pair in pairs])])
    trained = [weight for weight in pipe.unet.parameters() if weight.requires_grad]
    optimizer, alphas = torch.optim.AdamW(trained, lr=2e-3), pipe.scheduler.alphas_cumprod
    for _ in tqdm(range(steps), "training", disable=None):
        chosen = torch.randint(len(pairs), (BATCH,), generator=draw)
        times = torch.randint(1000, (BATCH,), generator=draw)
        noise = torch.randn(latents[chosen].shape, generator=draw)
        abar = rearrange(alphas[times], "n -> n 1 1 1")
        noised = abar.sqrt() * latents[chosen] + (1 - abar).sqrt() * noise
        predicted = pipe.unet(noised, times, embeds[chosen]).sample
        loss = (predicted - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = get_peft_model_state_dict(pipe.unet)
    to.parent.mkdir(parents=True, exist_ok=True)
    save_file({f"unet.{name}": weight.contiguous() for name, weight in state.items()}, to)


def main(
    folder: Path = Path("out/tuned/set"),
    to: Path = Path("out/tuned/lora.safetensors"),
    steps: int = 130,
) -> None:
    """Write the training set, and the LoRA that is trained on it."""
    training_set(folder)
    train(folder, to, steps)


if __name__ == "__main__":
    typer.run(main)
