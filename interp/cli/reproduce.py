"""`interp reproduce`: a paper's tables beside ours."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.options import (
    Clip,
    Controls,
    Descriptor,
    Devices,
    Dtype,
    Model,
    Scheduler,
    Suspects,
    Workers,
)
from interp.cli.stages import show_stages
from interp.cli.terminal import console
from interp.cli.workers import cluster, gpus_of


def reproduce(
    paper: Annotated[str, typer.Argument(help="kim-no, wen, ren or bright-ending.")],
    model: Model = "embedded",
    prompts: Suspects = None,
    controls: Controls = None,
    sscd: Descriptor = None,
    clip: Clip = None,
    aesthetic: Annotated[
        Path | None, typer.Option(help="An aesthetic head on the CLIP model; safetensors or .pth.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the store, tables and figures; out/PAPER.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many training images of each kind.", min=1)
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="At most so many of the paper's seeds.", min=1)
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the paper's.", min=3)] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it will cost, and stop.")] = False,
    device: Devices = None,
    dtype: Dtype = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
) -> Any:
    """A paper's tables beside ours: its prompts, seeds, sampler, and agreement.

    On the embedded model with that model's own prompts and descriptor; on any other with your local
    copies of what the paper used, which an error lists where they are missing.
    """
    log = show_stages()
    import interp as ip
    from interp.metrics import SSCD, Aesthetic
    from interp.report import cases as listed
    from interp.report import presets
    from interp.report.cost import cost
    from interp.report.measures import Measures
    from interp.report.reproduce import agreement, edits
    from interp.report.reproduce import reproduce as run
    from interp.session.embedded import is_embedded

    asked = presets.preset(paper)
    given = {"--model": model, "--prompts": prompts, "--controls": controls, "--sscd": sscd,
             "--clip": clip}  # fmt: skip
    if not is_embedded(model):
        _complete(asked, given)
    sampling = asked.sampling
    log.info("the model %s", model)
    device, gpus = gpus_of(device)
    sd = ip.load(
        model, dtype, device, scheduler=sampling["scheduler"],
        steps=steps or sampling["steps"], guidance=sampling["guidance"],
    )  # fmt: skip
    measures = Measures.of(model, sscd, clip)
    if sscd is not None and asked.tables == "edits":
        kind = asked.facts["descriptor"]["preprocess"]
        measures = replace(measures, copy=SSCD(sscd, kind))
    cases = listed.chosen(prompts, controls, limit)
    chosen = asked.seeds[:seeds]
    tried = edits() if asked.tables == "edits" else {}
    screen = console()
    screen.print(f"{asked.facts['title']} ({asked.facts['reference']})", soft_wrap=True)
    screen.print(_deviations(asked, sd, cases, chosen, is_embedded(model)), soft_wrap=True)
    screen.print(str(cost(sd, len(cases), len(chosen), tried, asked.tables == "edits")))
    if plan:
        return None
    folder = out or Path("out") / paper
    with cluster(workers, scheduler, gpus) as client:
        table = run(
            sd, asked, measures.fitted(cases, sd), folder, chosen, similarity=measures.copy,
            fidelity=measures.clip, client=client,
            aesthetic=None if aesthetic is None or clip is None else Aesthetic(clip, aesthetic),
        )  # fmt: skip
    for measure, found in agreement(table).items():
        screen.print(
            f"{measure}: {found['inside']} of {found['figures']} published figures are inside our "
            "95 % intervals",
            soft_wrap=True,
        )
    log.info("done: %s", folder / "reproduced.md")
    return table


def _complete(asked: Any, given: dict[str, Any]) -> None:
    """Raise if the user has not given all that the paper needs, or another file of that name."""
    import hashlib

    from interp.errors import InterpError

    missing = [
        f"{option}: {what} ({where})"
        for option, what, where, _ in asked.needs()
        if given[option] is None and option != "--clip"
    ]
    if missing:
        raise InterpError(
            f"Cannot reproduce {asked.facts['name']} on {given['--model']}.",
            f"It takes your copies of {'; '.join(missing)}.",
            "Get them and pass them, or run on the embedded model, which brings its own.",
        )
    for option, what, _, expected in asked.needs():
        path = given[option]
        if expected and path is not None and Path(path).is_file():
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != expected:
                raise InterpError(
                    f"{option} {path} was given for {what}.",
                    f"Its SHA-256 is {found}, that of the paper's file {expected}.",
                    "Get the paper's file, or take the line sha256 out of the preset.",
                )


def _deviations(asked: Any, sd: Any, cases: Any, seeds: Any, embedded: bool) -> str:
    """What differs from the paper, in one line."""
    found = []
    if embedded:
        found.append("the embedded model, its prompts, descriptor and CLIP model")
    count = asked.facts["prompts"]["memorized"]["count"]
    here = sum(case.kind == "memorized" for case in cases)
    if here != count:
        found.append(f"{here} memorized prompts of {count}")
    if len(seeds) != len(asked.seeds):
        found.append(f"{len(seeds)} seeds of {len(asked.seeds)}")
    if sd.steps != asked.sampling["steps"]:
        found.append(f"{sd.steps} steps for {asked.sampling['steps']}")
    dtype = str(sd.pipe.unet.dtype).removeprefix("torch.")
    if dtype != asked.sampling["dtype"]:
        found.append(f"{dtype} for {asked.sampling['dtype']}")
    return f"Other than in the paper: {', '.join(found) or 'nothing'}."
