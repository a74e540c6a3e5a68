"""`interp benchmark`: every detector and mitigation of the field, on any model."""

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
    Seeds,
    Steps,
    Suspects,
    Workers,
)
from interp.cli.stages import show_stages
from interp.cli.workers import cluster, gpus_of

QUICK = {"limit": 4, "seeds": 2, "steps": 6}


def benchmark(
    model: Model = "embedded",
    prompts: Suspects = None,
    controls: Controls = None,
    out: Annotated[Path, typer.Option(help="Folder for stores, tables and figures.")] = Path(
        "out/benchmark"
    ),
    limit: Annotated[
        int | None, typer.Option(help="At most so many images of each kind and level.", min=1)
    ] = None,
    seeds: Seeds = 2,
    steps: Steps = 50,
    quick: Annotated[bool, typer.Option(help="Minutes, and wide intervals: a test.")] = False,
    sscd: Descriptor = None,
    clip: Clip = None,
    device: Devices = None,
    dtype: Dtype = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
) -> Any:
    """Every detector and mitigation of the field: areas, copies left, fidelity, cost.

    Run again, it goes on where it was.
    """
    log = show_stages()
    import interp as ip
    from interp import benchmark as field
    from interp import plot
    from interp.report import cases as listed
    from interp.report.measures import Measures

    if quick:
        limit, seeds, steps = QUICK["limit"], QUICK["seeds"], QUICK["steps"]
    log.info("the model %s", model)
    out.mkdir(parents=True, exist_ok=True)
    device, gpus = gpus_of(device)
    sd = ip.load(model, dtype, device, steps=steps)
    measures = Measures.of(model, sscd, clip)
    population = (
        listed.from_files(prompts, controls, limit)
        if prompts is not None
        else listed.population(limit)
    )
    cases = measures.fitted(population, sd)
    cases, reference = _reference(cases)
    chosen = listed.top(cases)
    with cluster(workers, scheduler, gpus) as client:
        log.info("detectors on %d prompts", len(cases))
        scores = field.detectors(
            sd, cases, seeds, out / "scores.zarr", reference=reference, client=client
        )
        rates = field.rates(scores)
        rates.to_csv(out / "detectors.csv", index=False, float_format="%.6g")
        plot.save(plot.detector_rates(rates), out / "figures", "detectors")
        log.info("mitigations on %d prompts", len(chosen))
        grid = field.mitigations(
            sd, chosen, seeds, out / "edits.zarr", measures.copy, fidelity=measures.clip,
            client=client,
        )  # fmt: skip
    outcomes = field.outcomes(grid, measures.keeps, steps * (2 if sd.guided else 1))
    outcomes.to_csv(out / "mitigations.csv", index=False, float_format="%.6g")
    plot.save(plot.frontier(outcomes), out / "figures", "frontier")
    log.info("done: %s", out)
    return rates, outcomes


def _reference(cases: list[Any]) -> tuple[list[Any], list[str]]:
    """Set a quarter of the ordinary prompts apart, eight at most, for detectors that need some."""
    kinds = [kind for kind in ("held_out", "control") if any(case.kind == kind for case in cases)]
    if not kinds:
        return cases, []
    ordinary = [case for case in cases if case.kind == kinds[0]]
    apart = ordinary[len(ordinary) - min(8, len(ordinary) // 4) :]
    return [case for case in cases if case not in apart], [case.text for case in apart]
