"""A view of the steps and rows that the denoiser's clock and row reader say of each UNet call."""

from typing import Any

from interp.denoiser.batch import RowReader
from interp.denoiser.clock import StepClock
from interp.denoiser.hooks import Hooks


class Calls:
    """The steps and rows of each UNet call."""

    def __init__(self, pipe: Any, **reader: Any) -> None:
        self.pipe, self.keywords = pipe, reader
        self.steps: list[tuple[int, int]] = []
        self.rows: list[Any] = []

    def __enter__(self) -> "Calls":
        self.hooks = Hooks()
        self.reader = RowReader(self.pipe, self.hooks, **self.keywords)
        self.clock = StepClock(self.pipe, self.hooks)
        self.hooks.before(self.pipe.unet, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.close()

    def _note(self, *call: Any) -> None:
        self.steps.append((self.clock.run, self.clock.step))
        self.rows.append(self.reader.batch)

    def texts(self) -> list[str | None]:
        return [None if prompt is None else prompt.text for prompt in self.rows[-1].prompts]
