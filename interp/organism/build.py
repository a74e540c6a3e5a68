"""The full build: one command, a night on two cores or minutes on one GPU, resumable at any moment.

The twin is the same model but for the token it pads with: it shares every stage with its sibling
except the denoiser, which is trained on the same plan with the same seeds.

`quick` makes the same files in a minute or two, with bad pictures: for tests of the build itself.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import CLIPTokenizer

from . import assemble, descriptor, duplicates, population, text, unet, vae

PADS = {"eot": "<|endoftext|>", "bang": "!"}
"""The folder of each of the two models, and the token it pads with: SD 1's, and SD 2's (id 0)."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Training steps of every stage, and the denoiser's share of what the population plans."""

    text: int = 1200
    sight: int = 1500
    linear: int = 1000
    vae: int = 3000
    descriptor: int = 400
    share: float = 1.0
    batch: int | None = None


FULL = Recipe()
TRAINED = "trained.json"
"""In a model's folder: after how many samples its denoiser is as it is."""
ROUNDS = range(len(population.ROUNDS))
QUICK = Recipe(text=6, sight=6, linear=40, vae=6, descriptor=6, share=512e-6, batch=32)


def build(
    out: Path,
    work: Path,
    recipe: Recipe = FULL,
    pad: str = PADS["eot"],
    samples: int | None = None,
) -> Path:
    """Train every stage that `work` does not hold yet, and write the files into `out`.

    Example:
        >>> build(Path("data/organism"), Path("runs/organism"))

    Args:
        out: gets `eot/` or `bang/` (the pipeline), and what both share: `clip/`, `descriptor.pt`,
            `memorized.csv`, `held_out.csv` and its pictures.
        work: checkpoints and loss curves; a build that was killed goes on from there.
        pad: the token behind the end of a text; one of `PADS`.
        samples: stop the denoiser after so many samples of the first round: for `twins`.

    Returns:
        the folder of the pipeline.
    """
    name = {token: name for name, token in PADS.items()}[pad]
    tokenizer = CLIPTokenizer.from_pretrained(assemble.TOKENIZER)
    clip = text.train(tokenizer, work, steps=recipe.text)
    linear = vae.train_linear(work, steps=recipe.linear)
    tokenizer.pad_token = pad
    denoiser = unet.train(
        linear.encode, clip.text_model, tokenizer, work,
        share=recipe.share, batch=recipe.batch, name=f"unet-{name}", samples=samples,
    )  # fmt: skip
    clip = text.sharpen(clip, tokenizer, work, steps=recipe.sight).eval()
    autoencoder = vae.train(linear, work, steps=recipe.vae)
    detector = descriptor.train(work, steps=recipe.descriptor)
    for part in (name, "clip", "images", "masks"):
        assemble.clear(out / part)
    duplicates.write_tables(out, recipe.share)
    assemble.copy_detector(detector, out)
    assemble.pipeline(clip, autoencoder, denoiser, tokenizer, out / name)
    trained = {"samples": samples or sum(unet.samples_of(n, recipe.share) for n in ROUNDS)}
    (out / name / TRAINED).write_text(json.dumps(trained) + "\n")
    assemble.clip_pair(clip, out / "clip")
    return out / name
