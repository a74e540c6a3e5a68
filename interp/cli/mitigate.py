"""`interp mitigate`: see what an edit does to a prompt's images."""

from pathlib import Path
from typing import Annotated

import typer

import interp as ip
from interp.cli import options
from interp.cli.edits import HELP, named


def mitigate(
    prompt: Annotated[str, typer.Argument(help="The prompt to draw.")],
    edit: Annotated[str, typer.Option(help=HELP)] = "repad '!' and zero eot",
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("out/mitigate.png"),
    model: options.Model = "embedded",
    seeds: options.Seeds = 4,
    steps: options.Steps = 50,
    device: options.Device = None,
    dtype: options.Dtype = None,
) -> None:
    """A prompt's images without and with a mitigation, side by side."""
    chosen = named([edit])
    sd = ip.load(model, dtype, device, steps=steps)
    grid = sd.run(prompt, range(seeds), {"without": None, **chosen})
    figure = ip.plot.image_grid(grid.image.isel(prompt=0), rows="patch", columns="seed")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=200)
    typer.echo(out)
