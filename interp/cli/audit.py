"""`interp audit`: your own model against its training set."""

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import options
from interp.cli.stages import show_stages
from interp.cli.workers import cluster, gpus_of

TABLE = ("text", "shown", "exact", "copied", "other", "verdict")


def audit(
    data: Annotated[
        Path,
        typer.Option(help="The training set: a folder of images and captions, or a table of them."),
    ],
    model: options.Model = "embedded",
    lora: Annotated[
        Path | None, typer.Option(help="A LoRA of the model, *.safetensors, to audit.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and the page.")] = Path(
        "out/audit"
    ),
    limit: Annotated[
        int, typer.Option(help="Captions to try at most, the most repeated images first.", min=1)
    ] = 200,
    examined: Annotated[
        int, typer.Option(help="Memorized captions on the page, plus as many others.", min=1)
    ] = 8,
    seeds: options.Seeds = 4,
    steps: options.Steps = 25,
    sscd: options.Descriptor = None,
    clip: options.Clip = None,
    device: options.Devices = None,
    dtype: options.Dtype = None,
    workers: options.Workers = 1,
    scheduler: options.Scheduler = None,
) -> Any:
    """What a fine-tuned model has memorized of its training set, and what removes it.

    The images of every caption are compared with its own training image and with all others; the
    memorized captions are then examined as in `interp report`. Run it again to resume.

    Returns:
        the table in `audit.csv`.
    """
    log = show_stages()
    import interp as ip
    from interp import plot, report
    from interp.report.measures import Measures

    pairs = ip.audit.read_pairs(data)
    out.mkdir(parents=True, exist_ok=True)
    log.info("the model %s", model)
    device, gpus = gpus_of(device)
    sd = ip.load(model, dtype, device, steps=steps, lora=lora)
    measures = Measures.of(model, sscd, clip)
    descriptor = _descriptor(measures)
    log.info("%d pairs of captions and images", len(pairs))
    with cluster(workers, scheduler, gpus) as client:
        found = ip.audit.audit(
            sd, pairs, seeds, out / "audit.zarr", descriptor, measures.keeps, limit, client
        )
    table = found[list(TABLE)].reset_coords(list(TABLE)).to_dataframe()[list(TABLE)]
    table.to_csv(out / "audit.csv", index=False, float_format="%.6g")
    repeated = found.own.assign_coords(views=found.shown).rename("similarity to the training image")
    plot.save(plot.views_curve(repeated), out / "figures", "repetition")
    log.info(
        "memorized: %d of %d captions; %d unclear",
        *((found.verdict == "memorized").sum(), len(table), (found.verdict == "unclear").sum()),
    )
    cases = ip.audit.subjects(found, pairs, examined)
    memorized = [case for case in cases if case.kind == "memorized"]
    if lora is not None and memorized:
        log.info("the LoRA at several scales")
        curve = ip.audit.scales(sd, memorized, seeds, descriptor)
        ip.save(curve, out / "scales.nc")
        plot.save(plot.scale_curve(curve["copy"] >= measures.keeps), out / "figures", "scales")
    if memorized:
        with cluster(workers, scheduler, gpus) as client:
            examined_too = report.collect(
                sd, cases, store=out / "edits.zarr", similarity=descriptor,
                threshold=measures.keeps, fidelity=measures.clip, seeds=max(2, seeds),
                command=f"interp audit --model {model} --data {data}", client=client,
            )  # fmt: skip
        ip.save(examined_too, out / "report.nc")
        report.render(examined_too, out, source="report.nc")
    log.info("done: %s", out)
    return table


def _descriptor(measures: Any) -> Any:
    """The copy descriptor: a whole training set cannot be compared image by image."""
    from interp.errors import InterpError
    from interp.metrics import SSCD

    if not isinstance(measures.copy, SSCD):
        raise InterpError(
            "An audit was asked for.",
            "It needs a copy descriptor to compare images with a whole training set.",
            "Pass one: --sscd sscd_disc_mixup.torchscript.pt.",
        )
    return measures.copy
