"""Silence messages of diffusers and transformers that the user can do nothing about.

Only progress bars, and the message that torchvision, which nothing here uses, is not installed;
what they say about a model's files is still shown. Not for hiding warnings of our own code.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import diffusers.utils.logging as of_diffusers
import huggingface_hub.utils as of_hub
import transformers.utils.logging as of_transformers

_REMARK = "requires torchvision (not installed)"
_SAID_BY = "transformers.utils.import_utils"


def _other(record: logging.LogRecord) -> bool:
    return _REMARK not in record.getMessage()


@contextmanager
def quiet() -> Iterator[None]:
    """Load something without progress bars; settings are restored afterwards.

    Example:
        >>> with quiet():
        ...     pipe = StableDiffusionPipeline.from_pretrained(folder)
    """
    logger = logging.getLogger(_SAID_BY)
    shown = [log for log in (of_diffusers, of_transformers) if log.is_progress_bar_enabled()]
    hub = not of_hub.are_progress_bars_disabled()
    logger.addFilter(_other)
    for log in shown:
        log.disable_progress_bar()
    try:
        yield
    finally:
        logger.removeFilter(_other)
        for log in shown:
            log.enable_progress_bar()
        if hub == of_hub.are_progress_bars_disabled():
            (of_hub.enable_progress_bars if hub else of_hub.disable_progress_bars)()


# Importing these triggers the message of transformers about torchvision.
with quiet():
    from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

__all__ = ["DiffusionPipeline", "StableDiffusionPipeline", "StableDiffusionXLPipeline", "quiet"]
