"""Kim & No (arXiv 2605.02908, CVPR 2026 Findings): its edits by letter, and its results as data.

The paper that this toolkit builds on masks or replaces whole categories of embeddings and looks at
what is left of a memorized image. To use the same edits outside a comparison, see `mitigations`.
"""

import json
from typing import Any

from interp import mitigations as field
from interp.patch import Patch, copy, zero
from interp.session import Rewrite
from interp.session.embedded import data_file

RESULTS = "paper_results.json"


def interventions() -> dict[str, Patch]:
    """Return the paper's eight interventions by letter; "masking" a category zeroes its embeddings.

    Example:
        >>> grid = sd.run(prompts, seeds=range(10), patch={"none": None, **interventions()})

    Conditional rows only, at all layers and steps. `a` zeroes eot and pads, `b` copies eot over
    the prompt, `c` zeroes the prompt, `d` copies eot over the pads, `e` over prompt and pads, `f`
    zeroes eot, `g` copies the mean pad over prompt and eot, `h` zeroes the pads.
    """
    return {
        "a": zero(("eot", "pad")),
        "b": copy("eot", to="prompt"),
        "c": zero("prompt"),
        "d": copy("eot", to="pad"),
        "e": copy("eot", to=("prompt", "pad")),
        "f": zero("eot"),
        "g": copy("pad", to=("prompt", "eot"), reduce="mean"),
        "h": zero("pad"),
    }


def mitigations() -> dict[str, Patch | Rewrite]:
    """Return the mitigations that the paper compares, by their names in `results()`.

    Example:
        >>> grid = sd.run(prompts, seeds=range(10), patch={"none": None, **mitigations()})

    Settings are those of the authors' code where known: Wen et al. with target 3 for one image;
    Ren et al. with factor 1.25, and with the keys after the conditional prompt's end masked in the
    unconditional rows too; one random token or number (the default of their `--repeat_num`). Their
    script masks the keys of all prompts from the end of the list's first prompt on, a bug not
    repeated here.
    """
    return {
        "repad '!' and zero eot": field.repad_zero_eot(),
        "repad '!'": field.repad(),
        "zero pad 70 %": field.zero_pads(0.7),
        "Ren et al.": field.rescale_sot(1.25, uncond="paired"),
        "Wen et al.": field.optimise_embedding(target=3.0),
        "random token addition (RTA)": field.random_tokens(1),
        "random number addition (RNA)": field.random_numbers(1),
    }


def results() -> dict[str, Any]:
    """Return the paper's results and where each was read; None stands for an unknown result.

    Example:
        >>> {row["key"]: row["sscd"] for row in results()["interventions"]}["h"]
        0.07

    `results()["setting"]` says how they were measured: SSCD is `sscd_disc_large` after
    `preprocess="skew_320"`, so they are not comparable with results of `sscd_disc_mixup`.

    Raises:
        InterpError: none of the data folders has the file.
    """
    return json.loads(data_file(RESULTS).read_text(encoding="utf-8"))


def published(measure: str = "sscd") -> dict[str, float | None]:
    """Return one of the paper's measures for every edit, by the names used here.

    Example:
        >>> published()["h"], published("clipscore")["zero pad 70 %"]
        (0.07, 0.31)

    Args:
        measure: "sscd" (similarity to the unedited image), "clipscore" or "aesthetic".
    """
    found = results()
    edits = {row["key"]: row for row in found["interventions"]}
    edits |= {row["name"]: row for row in found["mitigations"]}
    return {name: row[measure] for name, row in edits.items()}


def titles() -> dict[str, str]:
    """Return what each of the paper's letters stands for.

    Example:
        >>> titles()["h"]
        'zero pad'
    """
    return {row["key"]: row["name"] for row in results()["interventions"]}


def label(name: str) -> str:
    """Return an edit's name for readers; the paper's letters are spelled out.

    Example:
        >>> label("h"), label("repad '!'")
        ('h: zero pad', "repad '!'")
    """
    known = titles()
    return f"{name}: {known[name]}" if name in known else name
