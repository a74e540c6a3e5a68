"""The model card: what was built and what was measured, written from the numbers themselves."""

import json
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import interp as ip

from . import build, descriptor, duplicates, population, removal, twins, unet
from .evaluate import KIM_AND_NO, SEEDS
from .figures import save

Found = dict[str, Any]


def write(model: Path, evaluation: Found, name: str = "eot") -> Path:
    """Write `CARD.md` and `evaluation.json` into the folder of one of the models.

    Example:
        >>> write(Path("data/organism"), evaluate(Path("data/organism"), Path("runs/evaluation")))
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True,
        autoescape=False,  # Markdown from our own numbers and captions
    )  # fmt: skip
    environment.globals |= {"percent": percent, "number": number}
    environment.filters["number"] = number
    (model / name / "evaluation.json").write_text(json.dumps(evaluation, indent=2) + "\n")
    both = twins.read(model)
    if both is not None:
        save(twins.draw(both), model / name / "figures" / "twins.png")
    shown = list(evaluation["levels"])
    denoiser = UNet2DConditionModel.from_pretrained(model / name / "unet")
    top = [row for row in duplicates.duplicates() if row.views == population.LEVELS[-1]]
    text = environment.get_template("card.md.j2").render(
        e=evaluation,
        name=name,
        load="ip.load()" if name == "eot" else f'ip.load("embedded:{name}")',
        pad=build.PADS[name],
        both=both,
        twins=list(twins.NAMES.values()),
        twin_rows=both and twin_rows(both),
        edits=edits(evaluation),
        ways=ways(evaluation),
        doses=list(evaluation["patches_by_views"]),
        by_views=[
            (
                ip.paper.label(edit),
                [level[edit]["to_training"] for level in evaluation["patches_by_views"].values()],
            )
            for edit in ("none", *ip.paper.interventions(), *KIM_AND_NO)
        ],
        level_names=", ".join(f"{int(views):,}" for views in shown),
        memorized_levels=" and ".join(f"{int(views):,}" for views in shown[-2:]),
        example=top[0].caption.text,
        recipe=build.FULL,
        its=population,
        offset=unet.OFFSET,
        ordinary=removal.ORDINARY,
        seeds=SEEDS,
        false_positives=descriptor.FALSE_POSITIVES,
        unet_millions=round(sum(p.numel() for p in denoiser.parameters()) / 1e6, 1),
        size=round(sum(f.stat().st_size for f in (model / name).rglob("*.safetensors")) / 1e6),
    )
    card = model / name / "CARD.md"
    card.write_text(text)
    return card


def edits(evaluation: Found) -> list[tuple[Any, ...]]:
    """The table against the paper: an edit's name and what it leaves, ours and theirs."""
    memorized, control = (evaluation["patches"][kind] for kind in ("memorized", "control"))
    published = ip.paper.published()
    return [
        (
            ip.paper.label(edit),
            memorized[edit]["to_unedited"],
            memorized[edit]["of_any"],
            memorized[edit]["freed"],
            control[edit]["to_unedited"],
            "not known to us" if published[edit] is None else f"{published[edit]:.2f}",
        )
        for edit in (*ip.paper.interventions(), *KIM_AND_NO)
    ]


def ways(evaluation: Found) -> list[tuple[str, dict[str, Any], dict[str, int]]]:
    """Category by category: what its removal leaves, and how many titles lose their image."""
    memorized = evaluation["patches"]["memorized"]
    return [
        (
            category,
            {way: memorized[patch]["to_unedited"] for way, patch in removal.ways(category).items()},
            {way: evaluation["drivers"][way][category] for way in removal.ways(category)},
        )
        for category in removal.CATEGORIES
    ]


def twin_rows(found: Found) -> list[tuple[str, list[str]]]:
    """The table of both models: copies by views so far, and copies that survive an edit."""
    rows = [
        (
            f"copies at {views:,.0f} views",
            [percent(found["copies"][name][level]) for name in (*twins.NAMES, "difference")],
        )
        for level, views in found["views"].items()
    ]
    left = found["left"]
    memorized = [f"{left[name]['images']} images" for name in twins.NAMES]
    rows.append(("copies of the top two levels' titles, under edits", [*memorized, ""]))
    for edit, what in twins.EDITS.items():
        rows.append(
            (f"left after: {what}", [*(percent(left[name][edit]) for name in twins.NAMES), ""])
        )
    return rows


def percent(found: dict[str, float | None]) -> str:
    """A share with its interval: `98 % (95-100)`, or a dash where there is none."""
    if found["mean"] is None:
        return "-"
    mean, low, high = (float("nan") if end is None else 100 * end for end in found.values())
    return f"{mean:.0f} % ({low:.0f}-{high:.0f})"


def number(found: dict[str, float | None]) -> str:
    """A mean with its interval: `0.91 (0.88-0.94)`, or a dash where there is none."""
    if found["mean"] is None:
        return "-"
    mean, low, high = (float("nan") if end is None else end for end in found.values())
    return f"{mean:.2f} ({low:.2f}-{high:.2f})"
