"""diffusers and transformers without remarks that a reader can do nothing about, for a moment.

Only bars, and the one remark that torchvision, which nothing here uses, is not installed: what
they say about a model's files is said. Not for hiding warnings of one's own code.
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
    """Load something without bars; afterwards everybody's settings are as they were.

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


# Importing these is what makes transformers remark on torchvision.
with quiet():
    from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

__all__ = ["DiffusionPipeline", "StableDiffusionPipeline", "StableDiffusionXLPipeline", "quiet"]
