"""`interp ...`: the toolkit from a terminal. Thin: every command is one call that Python has too.

Options are made from the signatures by typer. An error is one line; `--debug` shows where it is
from.
"""

import sys

from interp.errors import InterpError


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit with 1 and one line where something that was asked cannot be."""
    from interp.cli.app import app

    given = sys.argv[1:] if arguments is None else arguments
    try:
        app(given, prog_name="interp")
    except InterpError as error:
        if "--debug" in given:
            raise
        from interp.cli.terminal import console, shown

        console(stderr=True).print(shown(f"interp: {error}"), soft_wrap=True)
        raise SystemExit(1) from None
