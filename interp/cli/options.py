"""The options that commands share, written once."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option(help="embedded, embedded:bang, a diffusers folder, or a hub id.")
]
Prompts = Annotated[
    Path,
    typer.Option(help="CSV, JSON lines or text; the column is prompt, caption or text."),
]
Seeds = Annotated[int, typer.Option(help="How many seeds, from 0 on.", min=1)]
Steps = Annotated[int, typer.Option(help="Sampling steps.", min=1)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")]
Devices = Annotated[
    str | None,
    typer.Option(help="As cpu, cuda, ...; cuda:all is a process for every GPU of this machine."),
]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")]
Suspects = Annotated[
    Path | None,
    typer.Option(
        "--prompts", help="Prompts that may be memorized; the embedded model brings its own."
    ),
]
Controls = Annotated[
    Path | None, typer.Option(help="Prompts that are not memorized; read as --prompts is.")
]
Descriptor = Annotated[Path | None, typer.Option(help="TorchScript copy descriptor, as SSCD's.")]
Clip = Annotated[Path | None, typer.Option(help="CLIP folder, for CLIPScore.")]
Limit = Annotated[int, typer.Option(help="At most so many training images of each kind.", min=1)]
Store = Annotated[
    Path | None,
    typer.Option(
        help="Zarr store of the edited images, in the output folder if none is given; "
        "`interp ablate` and `interp report --full` can share one."
    ),
]
Workers = Annotated[
    int, typer.Option(help="Processes that share the work, on a local Dask cluster.", min=1)
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="A Dask cluster that shares the work, by its address: tcp://host:8786."),
]
Calibrated = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        help="A file of `interp calibrate`; by default the one in the model's folder.",
    ),
]
