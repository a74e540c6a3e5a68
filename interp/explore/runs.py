"""The images of a session, each made once: what a click changes is all that is computed.

Kept are encodings, clean runs with what the UNet predicted in them, and patched images. They are of
the pipeline as it was: `refresh` finds out what it is now, and nothing of another is given.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from functools import lru_cache

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from interp.explore.replay import first_step, predictions, replayed
from interp.patch import Patch
from interp.session import Session
from interp.text.prompt import Prompt

Pixels = UInt8[np.ndarray, "y x 3"]
CLEAN, PATCHED, PROMPTS = 8, 64, 256
"""How many of each are kept: predictions of a clean run are megabytes for a large model."""


class Runs:
    """What a session draws, kept.

    Example:
        >>> runs = Runs(sd)
        >>> runs.image(sd.encode("a photo of a goat"), 0, ip.zero("pad", steps=range(2, 4)))
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._clean = lru_cache(CLEAN)(self._make_clean)
        self._patched = lru_cache(PATCHED)(self._make_patched)
        self._encoded = lru_cache(PROMPTS)(lambda state, text: session.encode(text))
        self.refresh()

    def refresh(self) -> None:
        """Find out what the pipeline and its settings are now."""
        self.state = json.dumps(self.session.provenance(), default=repr, sort_keys=True)

    def encode(self, text: str) -> Prompt:
        """The prompt of a text: `runs.encode("a photo of a goat")`."""
        return self._encoded(self.state, text)

    def image(
        self, prompt: Prompt, seed: int, patch: Patch | None = None, steps: int | None = None
    ) -> Pixels:
        """The image that `session.images(prompt, [seed], patch)` makes.

        Args:
            prompt, seed, patch: as in `Session.run`.
            steps: another number of steps than the session's.

        Raises:
            InterpError: as `Session.run`.
        """
        steps = steps or self.session.steps
        if patch is None:
            return self._clean(self.state, prompt, seed, steps)[0]
        return self._patched(self.state, prompt, seed, patch, steps)

    def _make_clean(
        self, state: str, prompt: Prompt, seed: int, steps: int
    ) -> tuple[Pixels, list[Tensor]]:
        with predictions(self.session.pipe.unet) as kept:
            image = self._run(prompt, seed, None, steps)
        return image, kept

    def _make_patched(
        self, state: str, prompt: Prompt, seed: int, patch: Patch, steps: int
    ) -> Pixels:
        first = first_step(patch)
        unchanged = self._clean(state, prompt, seed, steps)[1][:first] if first else []
        with replayed(self.session.pipe.unet, unchanged) if unchanged else nullcontext():
            return self._run(prompt, seed, patch, steps)

    def _run(self, prompt: Prompt, seed: int, patch: Patch | None, steps: int) -> Pixels:
        session = self.session.but(steps=steps)
        return session.run(prompt, [seed], patch, images=True).image.values[0, 0]
