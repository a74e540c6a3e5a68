"""The options that commands share."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str, typer.Option(help="embedded, embedded:bang, a diffusers folder, or a hub id.")
]
Prompts = Annotated[
    Path,
    typer.Option(help="CSV, JSON lines or text; the column is called prompt, caption or text."),
]
Seeds = Annotated[int, typer.Option(help="Number of seeds, from 0 on.", min=1)]
Steps = Annotated[int, typer.Option(help="Sampling steps.", min=1)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; by default a GPU, if any.")]
Devices = Annotated[
    str | None,
    typer.Option(help="cpu, cuda, ...; cuda:all starts a process for each GPU of this machine."),
]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")]
Suspects = Annotated[
    Path | None,
    typer.Option(
        "--prompts", help="Prompts that may be memorized; the embedded model brings its own."
    ),
]
Controls = Annotated[
    Path | None, typer.Option(help="Prompts that are not memorized; a file like --prompts.")
]
Descriptor = Annotated[Path | None, typer.Option(help="TorchScript copy descriptor, such as SSCD.")]
Clip = Annotated[Path | None, typer.Option(help="Folder of a CLIP model, for CLIPScore.")]
Limit = Annotated[int, typer.Option(help="Training images of each kind at most.", min=1)]
Store = Annotated[
    Path | None,
    typer.Option(
        help="Zarr store of the edited images, by default in the output folder; "
        "`interp ablate` and `interp report --full` can share one."
    ),
]
Workers = Annotated[
    int, typer.Option(help="Local processes that share the work (a Dask cluster).", min=1)
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Address of a Dask cluster that shares the work: tcp://host:8786."),
]
Calibrated = Annotated[
    Path | None,
    typer.Option(
        "--calibration",
        help="A file made by `interp calibrate`; by default the one in the model's folder.",
    ),
]
