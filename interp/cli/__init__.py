"""`interp ...`: the toolkit from a terminal. Thin: every command is one call that Python has too.

typer makes the options from the signatures. An error is one line; `--debug` shows its traceback.
"""

import sys

from interp.errors import InterpError


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an `InterpError` is printed as one line and exits with 1."""
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
