"""`interp reproduce`: a paper's tables next to ours."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import options
from interp.cli.stages import show_stages
from interp.cli.terminal import console
from interp.cli.workers import cluster, gpus_of


def reproduce(
    paper: Annotated[str, typer.Argument(help="kim-no, wen, ren or bright-ending.")],
    model: options.Model = "embedded",
    prompts: options.Suspects = None,
    controls: options.Controls = None,
    sscd: options.Descriptor = None,
    clip: options.Clip = None,
    aesthetic: Annotated[
        Path | None, typer.Option(help="An aesthetic head for the CLIP model; safetensors or .pth.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for store, tables and figures; default out/PAPER.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Training images of each kind; default all.", min=1)
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="How many of the paper's seeds; default all.", min=1)
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Sampling steps; default the paper's.", min=3)
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Estimate the cost, and stop.")] = False,
    device: options.Devices = None,
    dtype: options.Dtype = None,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
) -> Any:
    """A paper's tables next to ours, with its prompts, seeds and sampler.

    The embedded model brings its own prompts and descriptor. Any other model needs your local
    copies of what the paper used; an error lists those that are missing.
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
            f"{measure}: {found['inside']} of {found['figures']} published figures are within our "
            "95 % intervals",
            soft_wrap=True,
        )
    log.info("done: %s", folder / "reproduced.md")
    return table


def _complete(asked: Any, given: dict[str, Any]) -> None:
    """Raise if something that the paper needs is missing, or is not the paper's file."""
    from interp.errors import InterpError
    from interp.results.hashes import file_sha256

    missing = [
        f"{option}: {what} ({where})"
        for option, what, where, _ in asked.needs()
        if given[option] is None and option != "--clip"
    ]
    if missing:
        raise InterpError(
            f"Cannot reproduce {asked.facts['name']} on {given['--model']}.",
            f"It needs your copies of {'; '.join(missing)}.",
            "Pass them, or run on the embedded model, which brings its own.",
        )
    for option, what, _, expected in asked.needs():
        path = given[option]
        if expected and path is not None and Path(path).is_file():
            found = file_sha256(path)
            if found != expected:
                raise InterpError(
                    f"{option} {path} was given as {what}.",
                    f"Its SHA-256 is {found}, but that of the paper's file is {expected}.",
                    "Get the paper's file, or delete the preset's sha256 line.",
                )


def _deviations(asked: Any, sd: Any, cases: Any, seeds: Any, embedded: bool) -> str:
    """What differs from the paper, in one line."""
    found = []
    if embedded:
        found.append("the embedded model, its prompts, descriptor and CLIP model")
    count = asked.facts["prompts"]["memorized"]["count"]
    here = sum(case.kind == "memorized" for case in cases)
    if here != count:
        found.append(f"{here} of {count} memorized prompts")
    if len(seeds) != len(asked.seeds):
        found.append(f"{len(seeds)} of {len(asked.seeds)} seeds")
    if sd.steps != asked.sampling["steps"]:
        found.append(f"{sd.steps} steps instead of {asked.sampling['steps']}")
    dtype = str(sd.pipe.unet.dtype).removeprefix("torch.")
    if dtype != asked.sampling["dtype"]:
        found.append(f"{dtype} instead of {asked.sampling['dtype']}")
    return f"Differs from the paper: {', '.join(found) or 'nothing'}."
