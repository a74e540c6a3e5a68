"""`interp ablate`: the paper's tables and figures on any model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.options import (
    Clip,
    Controls,
    Descriptor,
    Devices,
    Dtype,
    Limit,
    Model,
    Scheduler,
    Seeds,
    Steps,
    Store,
    Suspects,
    Workers,
)
from interp.cli.stages import show_stages
from interp.cli.workers import cluster, gpus_of


def ablate(
    model: Model = "embedded",
    prompts: Suspects = None,
    controls: Controls = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")] = Path(
        "out/ablation"
    ),
    store: Store = None,
    limit: Limit = 8,
    seeds: Seeds = 2,
    steps: Steps = 50,
    sscd: Descriptor = None,
    clip: Clip = None,
    device: Devices = None,
    dtype: Dtype = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
) -> Any:
    """Every intervention and mitigation on memorized prompts, as tables and figures.

    Returns:
        the sweep, which is also in the store; run again, it continues there.
    """
    log = show_stages()
    log.info("the model %s", model)
    import interp as ip
    from interp import report
    from interp.report.measures import Measures

    out.mkdir(parents=True, exist_ok=True)
    device, gpus = gpus_of(device)
    sd = ip.load(model, dtype, device, steps=steps)
    measures = Measures.of(model, sscd, clip)
    cases = measures.fitted(report.chosen(prompts, controls, limit), sd)
    with cluster(workers, scheduler, gpus) as client:
        grid = report.generate(
            sd,
            cases,
            report.edits(full=True),
            seeds,
            store=store or out / "ablation.zarr",
            similarity=measures.copy,
            fidelity=measures.clip,
            client=client,
        )
        unedited = report.observe(sd, cases, seeds, measures.copy, client)
    report.ablation(sd, grid, unedited, out, measures.keeps)
    log.info("done: %s", out)
    return grid
