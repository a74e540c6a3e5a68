"""Build the embedded model, train it on, and measure it: the commands of `interp organism`."""

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
    quick: Annotated[bool, typer.Option(help="Minutes, and bad pictures: a test.")] = False,
) -> None:
    """Train everything and write the model (six hours on two cores; a GPU is used)."""
    from . import build as made

    typer.echo(made.build(out, work, made.QUICK if quick else made.FULL))


@app.command("round")
def another_round(
    out: Annotated[Path, typer.Option(help="The folder that build wrote.")] = DATA,
    work: Annotated[Path, typer.Option(help="Checkpoints; a killed round goes on.")] = WORK,
) -> None:
    """Train the UNet of a built model another round, if its build stopped before the last."""
    from . import build as made

    made.another_round(out, work)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Option(help="The folder that build wrote.")] = DATA,
    out: Annotated[Path, typer.Option(help="Stores; a killed evaluation goes on.")] = EVALUATION,
) -> None:
    """Measure memorization, fidelity and the paper's edits; write figures and CARD.md."""
    from . import card, figures
    from . import evaluate as measured

    found = measured.evaluate(model, out)
    figures.draw(model, out, found["descriptor"]["threshold"])
    typer.echo(card.write(model, found))
