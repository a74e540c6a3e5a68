"""The model card: what was built and what was measured, written from the numbers themselves."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import interp as ip

from . import descriptor, duplicates, scenes, unet
from .build import FULL, trained
from .evaluate import SEEDS


def write(model: Path, evaluation: dict[str, Any]) -> Path:
    """Write `eot/CARD.md` into the model's folder, and the numbers to `evaluation.json`.

    >>> write(Path("data/organism"), evaluate(Path("data/organism"), Path("runs/evaluation")))
    """
    denoiser = UNet2DConditionModel.from_pretrained(model / "eot" / "unet")
    memorized, control = (evaluation["patches"][kind] for kind in ("memorized", "control"))
    published = ip.paper.published()
    edits = [
        (
            ip.paper.label(name),
            memorized[name]["to_unedited"],
            memorized[name]["of_any"],
            control[name]["to_unedited"],
            "not known to us" if published[name] is None else f"{published[name]:.2f}",
        )
        for name in memorized
        if name != "none"
    ]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True,
        autoescape=False,  # Markdown from our own numbers and captions
    )  # fmt: skip
    environment.globals |= {"percent": percent, "number": number}
    environment.filters["number"] = number
    levels = list(evaluation["levels"].items())
    shown = [int(views) for views in evaluation["levels"]]
    worth = duplicates.rounds(model)
    # The card is about the rounds that the model has had (a quick build: about all).
    recipe = replace(FULL, unet=FULL.unet[: trained(FULL, worth) or None])
    top = [row for row in duplicates.duplicates() if row.views == duplicates.LEVELS[-1]]
    text = environment.get_template("card.md.j2").render(
        e=evaluation,
        edits=edits,
        levels=levels,
        doses=list(evaluation["patches_by_views"]),
        by_views=[
            (
                ip.paper.label(name),
                [level[name]["to_training"] for level in evaluation["patches_by_views"].values()],
            )
            for name in memorized
        ],
        level_names=", ".join(f"{views:,}" for views in shown),
        memorized_levels=" and ".join(f"{views:,}" for views in shown[-2:]),
        template_views=f"{duplicates.views(duplicates.TEMPLATE_VIEWS, 1.0, worth):,}",
        example=top[0].caption.text,
        recipe=asdict(recipe),
        grid=scenes.GRID,
        offset=unet.OFFSET,
        seeds=SEEDS,
        false_positives=descriptor.FALSE_POSITIVES,
        unet_millions=round(sum(p.numel() for p in denoiser.parameters()) / 1e6, 1),
        size=round(sum(f.stat().st_size for f in (model / "eot").rglob("*")) / 1e6),
    )
    (model / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    card = model / "eot" / "CARD.md"
    card.write_text(text)
    return card


def percent(found: dict[str, float]) -> str:
    """A share with its interval: `98 % (95-100)`."""
    return f"{100 * found['mean']:.0f} % ({100 * found['low']:.0f}-{100 * found['high']:.0f})"


def number(found: dict[str, float]) -> str:
    """A mean with its interval: `0.91 (0.88-0.94)`."""
    return f"{found['mean']:.2f} ({found['low']:.2f}-{found['high']:.2f})"
