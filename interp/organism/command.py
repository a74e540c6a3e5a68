"""Build the embedded model, or its twin, and measure it: the commands of `interp organism`."""

from pathlib import Path
from typing import Annotated

import typer

DATA = Path(__file__).parents[2] / "data" / "organism"
WORK = Path("runs/organism")
EVALUATION = Path("runs/evaluation")

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def build(
    out: Annotated[Path, typer.Option(help="Where the model goes.")] = DATA,
    work: Annotated[
        Path, typer.Option(help="Checkpoints; a killed build goes on from them.")
    ] = WORK,
    pad: Annotated[str, typer.Option(help="The pad token: SD 1's by default, '!' for SD 2's.")] = (
        "<|endoftext|>"
    ),
    samples: Annotated[
        int | None, typer.Option(help="Stop the denoiser after so many, to compare it at that age.")
    ] = None,
    quick: Annotated[bool, typer.Option(help="Minutes, and bad pictures: a test.")] = False,
) -> None:
    """Train everything and write the model (a night on two cores; a GPU is used)."""
    from . import build as made

    typer.echo(made.build(out, work, made.QUICK if quick else made.FULL, pad, samples))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="The folder that build wrote.")] = DATA,
    out: Annotated[Path, typer.Option(help="Stores; a killed evaluation goes on.")] = EVALUATION,
    name: Annotated[str, typer.Option(help="Which of its two models: eot or bang.")] = "eot",
) -> None:
    """Measure memorization, fidelity, edits and detectors; write figures and CARD.md."""
    from . import card, figures
    from . import evaluate as measured

    found = measured.evaluate(model, out / name, name)
    figures.draw(model, out / name, found, name)
    typer.echo(card.write(model, found, name))


@app.command()
def twins(
    sibling: Annotated[Path, typer.Option(help="A build of as many samples, padded as SD 1 is.")],
    model: Annotated[Path, typer.Option(help="The folder that holds the twin.")] = DATA,
    out: Annotated[Path, typer.Option(help="Stores; a killed run goes on.")] = EVALUATION / "twins",
) -> None:
    """Compare the twin with its sibling at the same age, and write both into the card."""
    import json

    from . import card
    from . import twins as compared

    compared.measure(model, sibling, out)
    typer.echo(card.write(model, json.loads((model / "eot" / "evaluation.json").read_text())))
