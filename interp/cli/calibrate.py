"""`interp calibrate`: what detectors say of prompts that are not memorized, as a file."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.options import Controls, Device, Dtype, Model, Seeds, Steps, Suspects
from interp.cli.stages import show_stages


def calibrate(
    model: Model = "embedded",
    controls: Controls = None,
    prompts: Suspects = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file; by default where `inspect` looks, in the model's folder."),
    ] = None,
    seeds: Seeds = 4,
    steps: Steps = 25,
    device: Device = None,
    dtype: Dtype = None,
) -> Any:
    """The detectors' levels on prompts that are not memorized, for `inspect`.

    `report` takes them too. With --prompts, known to be memorized, it also says how many of those
    are found. The embedded model brings controls and memorized prompts of its own.
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
            "A model of a hub has no folder of its own that a file could be put into.",
            "Say where it goes: --out calibration.json, and give it to the others: --calibration.",
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
