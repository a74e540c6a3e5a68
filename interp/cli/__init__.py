"""`interp ...`: the toolkit on the command line. Every command is one call in Python, too.

typer makes the options from the signatures. Errors are one line; `--debug` shows the traceback.
"""

import sys

from interp.errors import InterpError


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; an `InterpError` is printed on one line and exits with status 1."""
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
