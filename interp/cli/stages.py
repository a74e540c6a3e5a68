"""A timed line for each stage of a long command, on a terminal or not.

Stages are what the library logs to `interp`; progress bars appear on terminals only.
"""

import logging

import typer


class _Stages(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        seconds = int(record.relativeCreated / 1000)
        typer.echo(f"{seconds // 60}:{seconds % 60:02d}  {record.getMessage()}", err=True)


def show_stages() -> logging.Logger:
    """Start showing the library's stages, and return its logger."""
    logger = logging.getLogger("interp")
    if not any(isinstance(handler, _Stages) for handler in logger.handlers):
        logger.addHandler(_Stages())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    return logger
