"""`interp ablate`: the paper's tables and figures on any model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import options
from interp.cli.stages import show_stages
from interp.cli.workers import cluster, gpus_of


def ablate(
    model: options.Model = "embedded",
    prompts: options.Suspects = None,
    controls: options.Controls = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")] = Path(
        "out/ablation"
    ),
    store: options.Store = None,
    limit: options.Limit = 8,
    seeds: options.Seeds = 2,
    steps: options.Steps = 50,
    sscd: options.Descriptor = None,
    clip: options.Clip = None,
    device: options.Devices = None,
    dtype: options.Dtype = None,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
) -> Any:
    """Every intervention and mitigation on memorized prompts, as tables and figures.

    Returns:
        the sweep, which is also in the store; run it again to resume.
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
