"""All commands of `interp`, in the order in which its help lists them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import interp as ip
from interp.cli.options import Clip, Descriptor, Device, Dtype, Model, Prompts, Seeds, Steps
from interp.errors import InterpError

app = typer.Typer(
    no_args_is_help=True,
    help="Why does Stable Diffusion reproduce this image? Look, detect, patch, mitigate, measure.",
    pretty_exceptions_enable=False,
)
EDITS = "a name of ip.paper.interventions() or ip.paper.mitigations(); `interp edits` lists them"


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option(help="Show where an error is from.")] = False,
) -> None:
    """Read by `interp.cli.main`, which sees the arguments before typer does."""


@app.command()
def inspect(
    prompt: Annotated[str, typer.Argument(help="The prompt to look at.")],
    model: Model = "organism/eot",
    seeds: Seeds = 4,
    steps: Steps = 50,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """A prompt's tokens, the attention that each category gets, and every detector's score."""
    sd = ip.load(model, dtype, device, steps=steps)
    encoded = sd.encode(prompt)
    trace = sd.trace(encoded, range(seeds), record=(ip.mass, *ip.detect.recorders(sd.pipe)))
    mass = trace.mass.mean([dim for dim in trace.mass.dims if dim != "category"])
    console = Console()

    tokens = Table("category", "tokens", "attention mass", "per token", "what", title=prompt)
    for name in ip.CATEGORIES:
        words = [w for w, code in zip(encoded.words, encoded.category, strict=True)
                 if ip.CATEGORIES[code] == name]  # fmt: skip
        share = float(mass.sel(category=name))
        each = f"{share / len(words):.4f}" if words else ""
        said = " ".join(words) if name == "prompt" else " ".join(dict.fromkeys(words))
        tokens.add_row(name, str(len(words)), f"{share:.3f}", each, said)
    console.print(tokens)

    scores = Table("detector", "mean", "over seeds", title="the larger, the more memorized")
    for detector, score in ip.detect.scores(trace).data_vars.items():
        spread = f"{float(score.min()):.4g} to {float(score.max()):.4g}"
        scores.add_row(str(detector), f"{float(score.mean()):.4g}", spread)
    console.print(scores)


@app.command()
def mitigate(
    prompt: Annotated[str, typer.Argument(help="The prompt to draw.")],
    edit: Annotated[str, typer.Option(help=EDITS)] = "repad '!' and zero eot",
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("out/mitigate.png"),
    model: Model = "organism/eot",
    seeds: Seeds = 4,
    steps: Steps = 50,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """A prompt's images without and with a mitigation, side by side in one picture."""
    chosen = named([edit])
    sd = ip.load(model, dtype, device, steps=steps)
    grid = sd.run(prompt, range(seeds), {"without": None, **chosen})
    figure = ip.plot.image_grid(grid.image.isel(prompt=0), rows="patch", columns="seed")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=200)
    typer.echo(out)


@app.command()
def edits() -> None:
    """The edits that have a name, and what they do."""
    table = Table("name", "what it does")
    for name, edit in {**ip.paper.interventions(), **ip.paper.mitigations()}.items():
        table.add_row(name, repr(edit))
    Console().print(table)


@app.command()
def sweep(
    prompts: Prompts,
    store: Annotated[Path, typer.Option(help="The Zarr store, *.zarr; run again, it continues.")],
    edit: Annotated[list[str] | None, typer.Option(help=EDITS + "; repeat for several")] = None,
    sscd: Descriptor = None,
    clip: Clip = None,
    mass: Annotated[bool, typer.Option(help="Record attention mass.")] = False,
    images: Annotated[bool, typer.Option(help="Keep the images.")] = True,
    workers: Annotated[int, typer.Option(help="Processes of a local Dask cluster.")] = 1,
    model: Model = "organism/eot",
    seeds: Seeds = 4,
    steps: Steps = 50,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Prompts x seeds x edits into a store that opens with plain xarray, and survives kills."""
    chosen = named(edit) if edit else ip.paper.interventions()
    file = ip.read_prompts(prompts)
    store.parent.mkdir(parents=True, exist_ok=True)
    sd = ip.load(model, dtype, device, steps=steps)
    measured: dict[str, ip.metrics.Metric] = {}
    if sscd is not None:
        measured["sscd"] = ip.metrics.SSCD(sscd)
    if clip is not None:
        measured["clipscore"] = ip.metrics.CLIPScore(clip)
    with cluster(workers) as client:
        found = ip.sweep(
            sd,
            file,
            chosen,
            seeds,
            store=store,
            metrics=measured,
            references=file.pictures(),
            record=ip.mass if mass else None,
            images=images,
            client=client,
        )
    typer.echo(found)


@contextmanager
def cluster(workers: int) -> Iterator[Any]:
    """A Dask cluster of so many processes on this machine, or None for one."""
    if workers == 1:
        yield None
        return
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as local,
        Client(local) as client,
    ):
        yield client


def named(names: list[str]) -> dict[str, ip.Patch | ip.Rewrite]:
    """The edits of these names."""
    known = {**ip.paper.interventions(), **ip.paper.mitigations()}
    for name in names:
        if name not in known:
            raise InterpError(
                f"The edit {name!r} was asked for.",
                f"There are {', '.join(known)}.",
                "Name one of them; `interp edits` says what each does.",
            )
    return {name: known[name] for name in names}


def _add_checkout_commands() -> None:
    """Commands that live in a checkout: the analyses and the embedded model's build."""
    from interp.organism import command

    app.add_typer(command.app, name="organism", help=command.__doc__)
    try:
        from analyses import ablation_figures, attribution_report
    except ModuleNotFoundError:
        return  # installed without a checkout
    app.command("ablate")(ablation_figures.main)
    app.command("report")(attribution_report.main)


_add_checkout_commands()
