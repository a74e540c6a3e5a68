"""The commands of `interp`, in the order of its help.

A command's file, `interp/cli/NAME.py`, is imported only when it runs: help does not wait for torch.
"""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

#: Each command's line in the help: the first sentence of its docstring.
COMMANDS = {
    "inspect": "A prompt's tokens, its attention, every detector's score, and the verdict.",
    "mitigate": "A prompt's images without and with a mitigation, side by side.",
    "explore": "Pick a prompt, patch it by clicks, see the image change, copy the line of Python.",
    "edits": "The named edits, and what they do.",
    "sweep": "Prompts x seeds x edits, written to a store that opens with plain xarray.",
    "calibrate": "The detectors' thresholds, from prompts that are not memorized, for `inspect`.",
    "ablate": "Every intervention and mitigation on memorized prompts, as tables and figures.",
    "reproduce": "A paper's tables next to ours, with its prompts, seeds and sampler.",
    "benchmark": "Every detector and mitigation of the field: AUC, copies left, fidelity, cost.",
    "audit": "What a fine-tuned model has memorized of its training set, and what removes it.",
    "report": "One HTML page: how many prompts are memorized, what drives it, what removes it.",
    "organism": "Build the embedded model, or its twin, and measure it.",
}


class _Lazy(TyperGroup):
    """Knows its commands by name, and imports the one that runs."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, known, rest = super().resolve_command(ctx, args)
        return name, known and command(str(name)), rest


def command(name: str) -> Any:
    """Import a command by name.

    Example:
        >>> command("inspect").help
    """
    found = getattr(import_module(f"interp.cli.{name}"), name)
    if not isinstance(found, typer.Typer):
        alone = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
        alone.command(name)(found)
        found = alone
    return typer.main.get_command(found)


app = typer.Typer(
    cls=_Lazy,
    no_args_is_help=True,
    help="Why does Stable Diffusion reproduce this image? Look, detect, patch, mitigate, measure.",
    pretty_exceptions_enable=False,
)


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    """`--debug` is read by `interp.cli.main`, which sees the arguments before typer does."""


def _listed() -> None:
    """Stands in the help for a command that has not been imported."""


for name, said in COMMANDS.items():
    app.command(name, help=said)(_listed)
