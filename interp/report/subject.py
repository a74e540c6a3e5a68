"""What is known about a prompt before anything is generated."""

from typing import Protocol, runtime_checkable

from PIL import Image


@runtime_checkable
class Subject(Protocol):
    """A prompt and what is known about it; any object with these attributes."""

    @property
    def text(self) -> str: ...
    @property
    def kind(self) -> str:
        """How it is listed: "memorized" or "control"."""

    @property
    def group(self) -> str:
        """Equal for prompts that share a training image."""

    @property
    def image(self) -> Image.Image | None:
        """The training image."""

    @property
    def views(self) -> int:
        """How often it was shown in training; negative if unknown."""
