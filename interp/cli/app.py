"""All commands of `interp`, in the order in which its help lists them."""

from typing import Annotated

import typer

from interp.cli.edits import edits
from interp.cli.inspect import inspect
from interp.cli.mitigate import mitigate
from interp.cli.sweep import sweep

app = typer.Typer(
    no_args_is_help=True,
    help="Why does Stable Diffusion reproduce this image? Look, detect, patch, mitigate, measure.",
    pretty_exceptions_enable=False,
)


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option(help="Show where an error is from.")] = False,
) -> None:
    """Read by `interp.cli.main`, which sees the arguments before typer does."""


for command in (inspect, mitigate, edits, sweep):
    app.command()(command)


def _add_checkout_commands() -> None:
    """Commands that live in a checkout: the analyses and the embedded model's build."""
    from interp.organism import command as organism

    app.add_typer(organism.app, name="organism", help=organism.__doc__)
    try:
        from analyses import ablation_figures, attribution_report
    except ModuleNotFoundError:
        return  # installed without a checkout
    app.command("ablate")(ablation_figures.main)
    app.command("report")(attribution_report.main)


_add_checkout_commands()
