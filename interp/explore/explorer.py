"""What the explorer answers: one question, one answer, both plain JSON, whoever carries them.

A page asks `{"ask": NAME, "id": ..., "choice": {...}}`. An error of the toolkit is an answer too.
Questions are answered one after another; `drop` may come from another thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xarray as xr
from PIL import Image

from interp.attribute import causal_trace
from interp.denoiser.hooks import Hooks
from interp.denoiser.layers import sites
from interp.denoiser.unet_call import calls_per_run
from interp.detect import recorders, scores
from interp.errors import InterpError
from interp.explore.call import call, line
from interp.explore.choice import DEFAULTS, Choice
from interp.explore.pictures import address, shares
from interp.explore.runs import Runs
from interp.patch import Patch
from interp.record import mass
from interp.report.cases import Case
from interp.report.levels import levels
from interp.report.measures import Measures
from interp.report.overlay import overlay
from interp.report.words import CATEGORIES as SAID
from interp.session import Session
from interp.session.settings import of_unet
from interp.text.categories import CATEGORIES
from interp.text.prompt import Prompt

QUICK = 4
"""A preview takes the steps of a whole run, divided by this."""
SEEDS = 4
"""Images that detectors judge by, as `interp inspect`."""


class Dropped(Exception):
    """Nobody waits for the answer any more."""


class Explorer:
    """A session, the prompts offered with it, and what a page was last shown.

    Example:
        >>> explorer = Explorer(sd, cases, measures)
        >>> explorer.answer({"ask": "look", "choice": {"text": "a photo of a goat"}})["without"]

    Args:
        session: pipeline and settings.
        cases: prompts to pick from, with their training images where these are known.
        measures: how images are compared.
        setup: Python that comes before every line; "" where `sd` is there already.

    Attributes:
        choice: what was last looked at.
    """

    def __init__(
        self, session: Session, cases: Sequence[Case], measures: Measures, setup: str = ""
    ) -> None:
        of_unet(session, "The explorer")
        self.session, self.measures, self.setup = session, measures, setup
        self.cases = measures.fitted(cases, session)
        self.choice = Choice(next((case.text for case in cases), ""))
        self._images = {case.text: case.image for case in self.cases}
        self._runs = Runs(session)
        self._now: Any = None
        self._dropped: deque[Any] = deque(maxlen=256)
        self._answers: dict[str, Callable[[Choice], dict[str, Any]]] = {
            "start": self._start,
            "read": self._read,
            "quick": self._quick,
            "look": self._look,
            "attend": self._attend,
            "judge": self._judge,
            "map": self._map,
        }

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a question, with its `id`: what was asked for, `error`, or `dropped`.

        Example:
            >>> explorer.answer({"ask": "read", "choice": {"text": "a goat"}})["line"]
            "sd.images('a goat', seeds=[0])[0]"
        """
        self._now = question.get("id")
        try:
            self._tick()
            asked = self._answers.get(str(question.get("ask")))
            if asked is None:
                raise InterpError(
                    f"The explorer was asked {str(question.get('ask'))[:80]!r}.",
                    f"It answers {', '.join(self._answers)}.",
                    "Load the page again.",
                )
            choice = Choice.read(question.get("choice", {}))
            with Hooks() as hooks:
                hooks.before(self.session.pipe.unet, self._tick)
                self._runs.refresh()
                found = asked(choice)
        except InterpError as error:
            found = {"error": [error.asked, error.exists, error.todo]}
        except Dropped:
            found = {"dropped": True}
        return {"id": self._now, **found}

    def drop(self, question: Any) -> None:
        """Stop answering the question with this `id`, or do not begin: `explorer.drop("tab 1")`."""
        self._dropped.append(question)

    @property
    def prompt(self) -> Prompt:
        """The prompt that was last looked at."""
        return self.session.encode(self.choice.text)

    @property
    def patch(self) -> Patch | None:
        """The patch that was last looked at."""
        return self._patch(self.choice)

    @property
    def line(self) -> str:
        """The line of Python that makes the image that was last looked at."""
        return line(self.choice, self._call(self.choice))

    @property
    def run(self) -> xr.Dataset:
        """What was last looked at as a dataset: `image` and `mass`, without and with the patch."""
        edits = {"without": None} | ({} if self.patch is None else {"with": self.patch})
        return self.session.run(self.prompt, [self.choice.seed], edits, mass, images=True)

    def _start(self, choice: Choice) -> dict[str, Any]:
        """What a page needs once."""
        session = self.session
        layers = [{"name": s.name, "heads": s.heads} for s in sites(session.pipe.unet)]
        return {
            "model": str(session.source.get("id", type(session.pipe).__name__)),
            "cases": [{"text": c.text, "kind": c.kind, "views": c.views} for c in self.cases],
            "categories": [{"name": name, "said": SAID[name]} for name in CATEGORIES],
            "layers": layers,
            "steps": calls_per_run(session.pipe, session.steps),
            "amounts": DEFAULTS,
        }

    def _read(self, choice: Choice) -> dict[str, Any]:
        """The prompt as the model reads it, and the line of Python; draws nothing."""
        prompt = self._runs.encode(choice.text)
        names = [CATEGORIES[code] for code in prompt.category.tolist()]
        training = self._images.get(choice.text)
        try:
            self._patch(choice)
            said: dict[str, Any] = {"line": line(choice, self._call(choice)), "setup": self.setup}
        except InterpError as error:
            said = {"problem": [error.asked, error.exists, error.todo]}
        return {
            "tokens": [list(pair) for pair in zip(prompt.words, names, strict=True)],
            "truncated": prompt.truncated,
            "training": None if training is None else address(training),
            **said,
        }

    def _quick(self, choice: Choice) -> dict[str, Any]:
        """A preview, in fewer steps."""
        session = self.session
        steps = max(1, session.steps // QUICK)
        calls = [calls_per_run(session.pipe, count) for count in (steps, session.steps)]
        return self._images_of(choice.within(calls[0], of=calls[1]), steps)

    def _look(self, choice: Choice) -> dict[str, Any]:
        """The images, and how alike they are."""
        found = self._images_of(choice, self.session.steps)
        self.choice = choice
        return found

    def _images_of(self, choice: Choice, steps: int) -> dict[str, Any]:
        prompt, patch = self._runs.encode(choice.text), self._patch(choice)
        edits = {"without": None} | ({} if patch is None else {"with": patch})
        pictures = {
            name: Image.fromarray(self._runs.image(prompt, choice.seed, edit, steps))
            for name, edit in edits.items()
        }
        training = self._images.get(choice.text)
        measure = self.measures.copy
        found: dict[str, Any] = {name: address(picture) for name, picture in pictures.items()}
        if training is not None:
            alike = measure(list(pictures.values()), training).tolist()
            found["training"] = {
                name: {"similarity": value, "copy": value >= self.measures.keeps}
                for name, value in zip(pictures, alike, strict=True)
            }
        if patch is not None:
            found["kept"] = float(measure([pictures["with"]], pictures["without"])[0])
        return found | {"measure": measure.name}

    def _attend(self, choice: Choice) -> dict[str, Any]:
        """Attention by step, layer (all of them first) and category, under the patch."""
        session, prompt = self.session, self._runs.encode(choice.text)
        maps = overlay(session)
        run = session.run(prompt, [choice.seed], self._patch(choice), (mass, maps))
        seen = run[["mass", maps.name]].isel(prompt=0, seed=0).mean("head").reset_coords(drop=True)
        every = seen.mean("layer").expand_dims(layer=["all layers"])
        seen = xr.concat([every, seen], "layer")
        axes = ("step", "layer", "category")
        return {
            "layers": [str(name) for name in seen.layer.values],
            "mass": shares(seen.mass.transpose(*axes).values),
            "maps": shares(seen[maps.name].transpose(*axes, "map_y", "map_x").values),
        }

    def _judge(self, choice: Choice) -> dict[str, Any]:
        """Memorized or not, by all detectors."""
        session = self.session
        calibrated, missing = None, "The model was not loaded by name, so no calibration is known."
        if "id" in session.source:
            calibrated, missing = levels(session, session.source["id"], None, SEEDS)
        if calibrated is None:
            return {"answer": "no answer", "reason": missing}
        prompt = self._runs.encode(choice.text)
        trace = session.trace(prompt, SEEDS, record=recorders(session.pipe))
        verdict = calibrated.verdict(scores(trace))
        return {"answer": verdict.answer, "reason": verdict.reason}

    def _map(self, choice: Choice) -> dict[str, Any]:
        """What the patch does at each layer and step alone: the change of the text's pull."""
        patch = self._patch(choice.everywhere())
        if patch is None:
            return {}
        prompt = self._runs.encode(choice.text)
        traced = causal_trace(self.session, prompt, patch, seeds=[choice.seed])
        change = ((traced["value"] - traced.clean) / traced.clean).isel(prompt=0, seed=0)
        return {
            "layers": [str(name) for name in change.layer.values],
            "change": change.transpose("layer", "step").values.round(4).tolist(),
        }

    def _call(self, choice: Choice) -> Any:
        return call(choice, sites(self.session.pipe.unet), self._runs.encode)

    def _patch(self, choice: Choice) -> Patch | None:
        made = self._call(choice)
        return None if made is None else made.patch()

    def _tick(self, *call: Any) -> None:
        if self._now is not None and self._now in self._dropped:
            raise Dropped
