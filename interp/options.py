"""The options that commands share, written once."""

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option(help="A diffusers folder, an embedded model, or a hub id.")]
Prompts = Annotated[
    Path,
    typer.Option(help="CSV, JSON lines or text; the column is prompt, caption or text."),
]
Seeds = Annotated[int, typer.Option(help="How many seeds, from 0 on.", min=1)]
Steps = Annotated[int, typer.Option(help="Sampling steps.", min=1)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...; a GPU if there is one.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")]
