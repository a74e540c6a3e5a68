"""The console that commands print to. It shows prompts literally, even `[bold]` and `:goat:`.

rich would interpret both, even in tables and titles, and a terminal obeys control characters.
"""

from __future__ import annotations

import unicodedata
from typing import Any

PICTURES = 0x2400
"""Unicode's pictures of control characters begin here."""


def console(**options: Any) -> Any:
    """A rich console that prints text literally.

    Example:
        >>> console(stderr=True).print(f"interp: {error}", soft_wrap=True)
    """
    from rich.console import Console

    return Console(markup=False, emoji=False, highlight=False, **options)


def shown(text: str) -> str:
    r"""The text with control characters, which a terminal would obey, replaced by pictures.

    Example:
        >>> shown("a\x1b[31mred")
        'a␛[31mred'
    """
    return "".join(_shown(mark) for mark in text)


def _shown(mark: str) -> str:
    if unicodedata.category(mark) != "Cc":
        return mark
    code = ord(mark)
    if code < 0x20:
        return chr(PICTURES + code)
    return "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"
