"""What a long command is at, a line for each stage with the time, wherever it runs.

Stages are what the library says to its logger `interp`; bars are for terminals only.
"""

import logging

import typer


class _Stages(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        seconds = int(record.relativeCreated / 1000)
        typer.echo(f"{seconds // 60}:{seconds % 60:02d}  {record.getMessage()}", err=True)


def show_stages() -> logging.Logger:
    """Show from now on what the library is at, and return the logger to add to it."""
    logger = logging.getLogger("interp")
    if not any(isinstance(handler, _Stages) for handler in logger.handlers):
        logger.addHandler(_Stages())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
