"""What recording and patching cost, as ratios to the stock pipeline in the same run.

    python -m analyses.benchmark                    # the embedded model's size, a minute
    python -m analyses.benchmark --size sd14        # Stable Diffusion 1.4's, 5 GB of memory

Weights are random: time does not depend on them. Every repeat runs every variant once, in a new
order, and compares it with the stock run of the same repeat. Time is the processor time of one
thread, so that other programs on the machine count as little as possible.
"""

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
import typer
import xarray as xr
from diffusers.models.attention_processor import AttnProcessor
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

import interp as ip
from analyses.architectures import Size, build
from interp import results
from interp.denoiser.hooks import Hooks
from interp.record.recorders import LayerAttention
from interp.text.categories import CATEGORIES

TEXT = "Antique Church Poster in Berlin"


@dataclass(frozen=True)
class Full:
    """A recorder that keeps one layer's probabilities whole, as attention-map tools do."""

    site: ip.Site
    dims: tuple[str, ...] = ("query", "position")

    @property
    def name(self) -> str:
        return f"map_{self.site.name}"

    @property
    def layers(self) -> str:
        return self.site.name

    def __call__(self, seen: LayerAttention) -> Float[Tensor, "row head query position"]:
        return seen.probabilities


@contextmanager
def one_hot_values(pipe: Any, prompt: ip.Prompt) -> Iterator[Any]:
    """Mass by attending to one-hot values with the fused kernel, instead of recomputing a softmax.

    `attention(q, k, onehot(category))` is the mass per query; the 77-wide map is never built.
    """
    codes = F.one_hot(prompt.category, len(CATEGORIES)).float()
    kept: list[Tensor] = []

    def after(attention: Any, args: tuple, kwargs: dict, output: Any) -> None:
        with torch.no_grad():
            split = "row n (head d) -> row head n d"
            text = kwargs["encoder_hidden_states"]
            queries = rearrange(attention.to_q(args[0]), split, head=attention.heads)
            keys = rearrange(attention.to_k(text), split, head=attention.heads)
            values = codes.expand(*keys.shape[:2], *codes.shape)
            mass = F.scaled_dot_product_attention(queries, keys, values, scale=attention.scale)
            kept.append(mass.mean(2))

    with Hooks() as hooks:
        for site in ip.sites(pipe.unet):
            hooks.after(pipe.unet.get_submodule(site.path), after)
        yield kept


@contextmanager
def eager(pipe: Any) -> Iterator[None]:
    """Build the whole map, as the processors that map tools bring along do."""
    stock = pipe.unet.attn_processors
    pipe.unet.set_attn_processor(AttnProcessor())
    try:
        yield
    finally:
        # Not set_default_attn_processor(), which sets the eager one: every later run, the stock one
        # included, would then be an eager run.
        pipe.unet.set_attn_processor(stock)


def variants(pipe: Any, prompt: ip.Prompt) -> dict[str, Callable[[], AbstractContextManager[Any]]]:
    """Return what is timed, by name: contexts around one pipeline call."""
    sites = ip.sites(pipe.unet)
    empty = ip.encode(pipe, "")[0]
    known = {"tokens": prompt, "negative": empty}
    half = range(sites[0].heads // 2)
    side = {side: ip.scale("pad", 0.5, heads=half, side=side) for side in ("k", "v")}
    everything = [Full(site) for site in sites]
    return {
        "stock": nullcontext,
        "record mass": lambda: ip.record(pipe, ip.mass, **known),
        "record mass, conditional rows": lambda: ip.record(pipe, ip.mass, uncond=False, **known),
        "record mass, one-hot values": lambda: one_hot_values(pipe, prompt),
        "record and keep full maps": lambda: ip.record(pipe, *everything, budget=2**40, **known),
        "patch embeddings": lambda: ip.zero("pad").on(pipe, tokens=prompt),
        "patch half the heads' keys": lambda: side["k"].on(pipe, tokens=prompt),
        "patch half the heads' keys and values": lambda: (side["k"] & side["v"]).on(
            pipe, tokens=prompt
        ),
        "mask": lambda: ip.mask("pad").on(pipe, tokens=prompt),
        "eager processor": lambda: eager(pipe),
    }


def kept_bytes(log: Any) -> int:
    """Return what a recording kept, in bytes."""
    if isinstance(log, list):
        return sum(part.numel() * part.element_size() for part in log)
    return getattr(log, "kept", 0)


def measure(pipe: Any, steps: int, repeats: int, images: int, pixels: int) -> xr.Dataset:
    """Return seconds and kept bytes of every variant and repeat."""
    prompt = ip.encode(pipe, TEXT)[0]
    timed = variants(pipe, prompt)
    embeds = prompt.embeds.expand(images, -1, -1)
    negative = ip.encode(pipe, "")[0].embeds.expand(images, -1, -1)
    run = functools.partial(
        pipe,
        prompt_embeds=embeds,
        negative_prompt_embeds=negative,
        num_inference_steps=steps,
        height=pixels,
        width=pixels,
        output_type="latent",
    )
    pipe.set_progress_bar_config(disable=True)
    run(generator=torch.Generator().manual_seed(0))  # the first call is slower
    seconds = np.zeros((len(timed), repeats))
    kept = np.zeros(len(timed))
    names = list(timed)
    order = np.random.default_rng(0)
    with tqdm(total=repeats * len(names), disable=None) as bar:
        for repeat in range(repeats):
            for place in order.permutation(len(names)):
                start = time.process_time()
                with timed[names[place]]() as context:
                    run(generator=torch.Generator().manual_seed(0))
                seconds[place, repeat] = time.process_time() - start
                kept[place] = kept_bytes(context) / steps
                bar.update()
    return xr.Dataset(
        {"seconds": (("variant", "repeat"), seconds), "kept": ("variant", kept)},
        coords={"variant": names, "repeat": range(repeats)},
    )


def table(data: xr.Dataset) -> pd.DataFrame:
    """Return one row per variant: the ratio with its quartiles, seconds, what is kept per step."""
    low, middle, high = data.ratio.quantile([0.25, 0.5, 0.75], "repeat").values
    columns = {
        "ratio": middle,
        "lower quartile": low,
        "upper quartile": high,
        "seconds": data.seconds.median("repeat").values,
        "KiB kept per step": data.kept.values / 1024,
        "KiB kept per step at half the size": data.kept_half.values / 1024,
    }
    return pd.DataFrame(columns, index=data.variant.to_index())


def figure(data: xr.Dataset) -> Any:
    """Return the ratios as points with quartiles, one row per variant."""
    frame = data.ratio.to_dataframe().reset_index()
    fig, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    sns.stripplot(frame, x="ratio", y="variant", color="0.7", size=3, ax=axes)
    sns.pointplot(
        frame,
        x="ratio",
        y="variant",
        estimator="median",
        errorbar=("pi", 50),
        linestyle="none",
        color="C0",
        ax=axes,
    )
    axes.axvline(1, color="0.4", linewidth=0.8)
    axes.set(xlabel="time, ratio to the stock pipeline", ylabel="")
    sns.despine(fig)
    return fig


def main(
    size: Size = Size.embedded,
    out: Path = Path("out/benchmark"),
    steps: int = 5,
    repeats: int = 15,
    images: int = 1,
    pixels: int | None = None,
) -> xr.Dataset:
    """Time every variant, and write a dataset, a table (CSV, Markdown) and a figure (PDF, PNG)."""
    torch.set_num_threads(1)
    pipe = build(size)
    native = pixels or pipe.unet.config.sample_size * pipe.vae_scale_factor
    data = measure(pipe, steps, repeats, images, native)
    half = measure(pipe, 1, 1, images, native // 2)
    data = data.assign(ratio=data.seconds / data.seconds.sel(variant="stock"), kept_half=half.kept)
    data = results.stamp(
        data,
        packages=results.packages(),
        size=str(size),
        parameters=sum(p.numel() for p in pipe.unet.parameters()),
        steps=steps,
        images=images,
        pixels=native,
        clock="processor time of one thread",
    )
    out.mkdir(parents=True, exist_ok=True)
    results.save(data, out / f"{size}.nc")
    rows = table(data)
    rows.to_csv(out / f"{size}.csv")
    (out / f"{size}.md").write_text(markdown(rows))
    fig = figure(data)
    for suffix in ("pdf", "png"):
        fig.savefig(out / f"{size}.{suffix}", dpi=150)
    plt.close(fig)
    print(markdown(rows))
    return data


def markdown(rows: pd.DataFrame) -> str:
    """Return the table as Markdown."""
    lines = [
        "| variant | " + " | ".join(rows.columns) + " |",
        "|---" * (1 + len(rows.columns)) + "|",
    ]
    for name, row in rows.iterrows():
        lines.append(f"| {name} | " + " | ".join(f"{value:.3g}" for value in row) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    typer.run(main)
