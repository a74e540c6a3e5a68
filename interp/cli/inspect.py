"""`interp inspect`: look at one prompt and say whether it is memorized."""

from typing import Annotated

import typer
from rich.table import Table

import interp as ip
from interp.cli import options
from interp.cli.terminal import console, shown


def inspect(
    prompt: Annotated[str, typer.Argument(help="The prompt to look at.")],
    model: options.Model = "embedded",
    seeds: options.Seeds = 4,
    steps: options.Steps = 25,
    calibration: options.Calibrated = None,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """A prompt's tokens, its attention, every detector's score, and the verdict.

    Each detector has two thresholds, which 1 % and 10 % of the controls exceed for any of them. The
    prompt is memorized if some detector is above the first, not memorized if none is above the
    second, and unclear in between.
    """
    sd = ip.load(model, dtype, device, steps=steps)
    ip.detect.ready(sd)
    from interp.report.levels import levels

    calibrated, missing = levels(sd, model, calibration, seeds)
    encoded = sd.encode(prompt)
    trace = sd.trace(encoded, range(seeds), record=(ip.mass, *ip.detect.recorders(sd.pipe)))
    mass = trace.mass.mean([dim for dim in trace.mass.dims if dim != "category"])
    screen = console()

    tokens = Table("category", "tokens", "attention mass", "per token", "what", title=shown(prompt))
    for name in ip.CATEGORIES:
        words = [w for w, code in zip(encoded.words, encoded.category, strict=True)
                 if ip.CATEGORIES[code] == name]  # fmt: skip
        share = float(mass.sel(category=name))
        each = f"{share / len(words):.4f}" if words else ""
        said = " ".join(words) if name == "prompt" else " ".join(dict.fromkeys(words))
        tokens.add_row(name, str(len(words)), f"{share:.3f}", each, shown(said))
    screen.print(tokens)

    found = ip.detect.scores(trace, ip.detect.defined(sd.pipe))
    rates = (calibrated.fpr, calibrated.loose_fpr) if calibrated else ()
    limits = [f"level of {rate:.0%}" for rate in rates]
    title = "the larger, the more memorized"
    scores = Table("detector", "mean", "over seeds", *limits, title=title)
    for detector, score in found.data_vars.items():
        spread = f"{float(score.min()):.4g} to {float(score.max()):.4g}"
        both = (calibrated.level, calibrated.loose_level) if calibrated else ()
        reached = [f"{level[str(detector)]:.4g}" for level in both]
        scores.add_row(str(detector), f"{float(score.mean()):.4g}", spread, *reached)
    screen.print(scores)

    if calibrated is None:
        screen.print(f"No answer. {missing}")
        return
    verdict = calibrated.verdict(found)
    screen.print(f"{verdict.answer}: {verdict.reason}")
    screen.print(calibrated.reliability())
