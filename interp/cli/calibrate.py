"""`interp calibrate`: the detectors' thresholds, from prompts that are not memorized, as a file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import options
from interp.cli.stages import show_stages


def calibrate(
    model: options.Model = "embedded",
    controls: options.Controls = None,
    prompts: options.Suspects = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file; by default in the model's folder, where `inspect` looks."),
    ] = None,
    seeds: options.Seeds = 4,
    steps: options.Steps = 25,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> Any:
    """The detectors' thresholds, from prompts that are not memorized, for `inspect`.

    `report` uses them too. Given --prompts that are known to be memorized, it also says how many of
    them are detected. The embedded model brings its own controls and memorized prompts.
    """
    log = show_stages()
    log.info("the model %s", model)
    import interp as ip
    from interp.detect.calibration import FILE, Calibration
    from interp.report.cases import ordinary, suspects
    from interp.session.load import find

    if out is None:
        folder = find(model)
        out = None if folder is None else folder / FILE
    if out is None:
        raise ip.InterpError(
            f"A calibration of {model} was asked for.",
            "A model from a hub has no folder to put the file into.",
            "Name the file: --out calibration.json, and pass it to other commands: --calibration.",
        )
    sd = ip.load(model, dtype, device, steps=steps)
    ip.detect.ready(sd)
    texts = ordinary(model, controls)
    known = suspects(model, prompts)
    log.info("%d controls and %d memorized prompts, %d seeds", len(texts), len(known), seeds)
    made = Calibration.of(sd, texts, seeds, known)
    path = made.save(out)
    log.info("done: %s. %s", path, made.reliability())
    return made
