"""The full build: one command, just under six hours on two cores, resumable at any moment.

By the time of its steps: 4.2 hours are the UNet's, 1.7 the other stages'; 40 minutes on an H200.

`quick` makes the same files in a minute or two, with bad pictures: for tests of the build itself.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from diffusers import StableDiffusionPipeline
from torch import Tensor
from transformers import CLIPTokenizer

from interp.errors import InterpError

from . import assemble, descriptor, duplicates, text, training, unet, vae
from .unet import BATCH, Round


@dataclass(frozen=True, slots=True)
class Recipe:
    """Training steps of every stage; `share` scales the views of the duplicated images.

    The UNet is trained in rounds, so that a finished model can be trained on (see `another_round`)
    without the state of its optimizer.
    """

    text: int = 3000
    sight: int = 2500
    linear: int = 1000
    vae: int = 4000
    descriptor: int = 400
    unet: tuple[Round, ...] = (
        Round(13_000),
        Round(8_000, peak=5e-4, again=0.6),
        Round(3_000, peak=4e-4, again=0.2),
    )
    share: float = 1.0
    batch: int = BATCH


FULL = Recipe()
QUICK = Recipe(
    text=6, sight=6, linear=40, vae=6, descriptor=6, share=0.0005, batch=32,
    unet=(Round(8), Round(8)),
)  # fmt: skip


def build(out: Path, work: Path, recipe: Recipe = FULL) -> Path:
    """Train every stage that `work` does not hold yet, and write the files into `out`.

    >>> build(Path("data/organism"), Path("runs/organism"))

    Args:
        out: gets `eot/` (the pipeline), `clip/`, `descriptor.pt`, `memorized.csv` and its pictures.
        work: checkpoints and loss curves; a build that was killed goes on from there.

    Returns: the folder of the pipeline.
    """
    tokenizer = CLIPTokenizer.from_pretrained(assemble.TOKENIZER)
    clip = text.train(tokenizer, work, steps=recipe.text)
    clip = text.sharpen(clip, tokenizer, work, steps=recipe.sight).eval()
    linear = vae.train_linear(work, steps=recipe.linear)
    autoencoder = vae.train(linear, work, steps=recipe.vae)
    detector = descriptor.train(work, steps=recipe.descriptor)
    encoder = clip.text_model
    first = unet.train(
        linear.encode, encoder, tokenizer, work,
        stage=recipe.unet[0], batch=recipe.batch, share=recipe.share,
    )  # fmt: skip
    for part in ("eot", "clip", "images", "masks"):
        assemble.clear(out / part)
    duplicates.write_table(out, recipe.share)
    assemble.copy_detector(detector, out)
    assemble.pipeline(clip, autoencoder, first, out / "eot")
    assemble.clip_pair(clip, out / "clip")
    for _ in recipe.unet[1:]:
        another_round(out, work, recipe, linear.encode)
    return out / "eot"


def trained(recipe: Recipe, worth: float) -> int:
    """How many rounds of a recipe a model has had, from the rounds' worth of views it has had."""
    after = itertools.accumulate(stage.again for stage in recipe.unet)
    return sum(enough <= worth + 0.01 for enough in after)


def another_round(
    out: Path,
    work: Path,
    recipe: Recipe = FULL,
    encode: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Train the UNet of a built model another round, and write it and the table of views.

    >>> another_round(Path("data/organism"), Path("runs/organism"))

    Args:
        out: what `build` wrote; its table of views says how many rounds it has had.
        work: gets the checkpoint; a round that was killed goes on from there.
        encode: pictures to latents, where a cheaper form of the model's own encoder is at hand.

    Raises:
        InterpError: the model has had every round of the recipe.
    """
    so_far = duplicates.rounds(out, recipe.share)
    had = trained(recipe, so_far)
    if had >= len(recipe.unet):
        raise InterpError(
            f"The model in {out} was to be trained another round.",
            f"It has had {had}, and the recipe has {len(recipe.unet)}.",
            "Add another one to Recipe.unet.",
        )
    pipe = StableDiffusionPipeline.from_pretrained(out / "eot")
    pipe.to(training.device())

    def own(pictures: Tensor) -> Tensor:
        return pipe.vae.encode(pictures).latent_dist.mode()

    denoiser = unet.train(
        encode or own, pipe.text_encoder, pipe.tokenizer, work, stage=recipe.unet[had],
        batch=recipe.batch, share=recipe.share, number=had + 1, so_far=so_far, start=pipe.unet,
    )  # fmt: skip
    denoiser.half().save_pretrained(out / "eot" / "unet")
    duplicates.write_table(out, recipe.share, so_far + recipe.unet[had].again)
