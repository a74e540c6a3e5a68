"""The full build: one command, about three hours on two cores, resumable at any moment.

`quick` makes the same files in a minute or two, with bad pictures: for tests of the build itself.
"""

from dataclasses import dataclass
from pathlib import Path

from transformers import CLIPTokenizer

from . import assemble, descriptor, duplicates, text, unet, vae
from .unet import BATCH


@dataclass(frozen=True, slots=True)
class Recipe:
    """Training steps of every stage; `share` scales the views of the duplicated images."""

    text: int = 3000
    linear: int = 1000
    vae: int = 4000
    descriptor: int = 400
    unet: int = 7_000
    share: float = 1.0
    batch: int = BATCH


FULL = Recipe()
QUICK = Recipe(text=6, linear=40, vae=6, descriptor=6, unet=8, share=0.0005, batch=32)


def build(out: Path, work: Path, recipe: Recipe = FULL) -> Path:
    """Train every stage that `work` does not hold yet, and write the files into `out`.

    >>> build(Path("data/organism"), Path("runs/organism"))

    Args:
        out: gets `eot/` (the pipeline), `clip/`, `descriptor.pt`, `memorized.csv` and its pictures.
        work: checkpoints and loss curves; a build that was killed goes on from there.

    Returns: the folder of the pipeline.
    """
    tokenizer = CLIPTokenizer.from_pretrained(assemble.TOKENIZER)
    clip = text.train(tokenizer, work, steps=recipe.text).eval()
    linear = vae.train_linear(work, steps=recipe.linear)
    autoencoder = vae.train(linear, work, steps=recipe.vae)
    detector = descriptor.train(work, steps=recipe.descriptor)
    encoder = clip.text_model
    denoiser = unet.train(
        linear, encoder, tokenizer, work, steps=recipe.unet, batch=recipe.batch, share=recipe.share
    )
    for part in ("eot", "clip", "images", "masks"):
        assemble.clear(out / part)
    duplicates.write_table(out, recipe.share)
    assemble.copy_detector(detector, out)
    assemble.pipeline(clip, autoencoder, denoiser, out / "eot")
    assemble.clip_pair(clip, out / "clip")
    return out / "eot"
