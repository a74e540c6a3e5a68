"""Memorized, not memorized, or unclear: the detectors' levels on controls, kept as a file.

The rule needs no prompt that is known to be memorized. Each detector's mean score over the seeds is
compared with two levels of its own: a strict one, and a loose one.

- *memorized*: some detector is above its strict level;
- *not memorized*: none is above its loose level;
- *unclear*: anything between.

Levels are set so that at most 1 % of the controls are above any strict level, and 10 % above any
loose one: each of `d` detectors has an equal share of that (Bonferroni). One detector suffices,
since they look for different things, and on a given model some see nothing, or the opposite.

A new prompt of the controls' kind is above one detector's level with a probability of at most
`(k + 1) / (n + 1)`, `k` of `n` controls being allowed above it, so above any of six strict levels
in at most 2.5 % of cases with 240 controls, and in 46 % with 12: take hundreds. How often it
happens among the controls themselves, each judged by the others, stands in the file. The rule is
about controls: how many memorized prompts it finds depends on the model, and is counted where some
are known. A rule that takes most of those for *not memorized* clears nobody: it says *unclear*.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from interp.detect.calibrate import calibrate
from interp.detect.scores import DETECTORS, scan
from interp.errors import InterpError
from interp.session import Session
from interp.text.prompt import Prompt

MEMORIZED, UNCLEAR, CLEAN = "memorized", "unclear", "not memorized"
MAJORITY = 0.5
FILE = "calibration.json"
"""Its name in the folder of the model that it is of."""
KEPT = ("steps", "guidance", "scheduler", "dtype", "height", "width", "uncond")


@dataclass(frozen=True)
class Verdict:
    """An answer, and why."""

    answer: str
    reason: str


@dataclass(frozen=True)
class Calibration:
    """What detectors say of prompts that are not memorized, on one model under one setting.

    Attributes:
        model: what it is, as `identity` says, and where it was from.
        settings: what scores depend on beside the prompt; `seeds` is how many are averaged.
        controls: how many prompts.
        fpr, loose_fpr: the share of them allowed above any `level` and above any `loose_level`.
        level, loose_level: thresholds by detector.
        of_controls: share of the controls with each answer, each judged by the others.
        of_memorized: the same of prompts known to be memorized, where there were some.
    """

    model: dict[str, Any]
    settings: dict[str, Any]
    controls: int
    fpr: float
    loose_fpr: float
    level: dict[str, float]
    loose_level: dict[str, float]
    of_controls: dict[str, float]
    of_memorized: dict[str, float] | None = None

    @classmethod
    def of(
        cls,
        session: Session,
        controls: Sequence[str | Prompt],
        seeds: int = 4,
        memorized: Sequence[str | Prompt] = (),
        *,
        fpr: float = 0.01,
        loose_fpr: float = 0.1,
    ) -> Calibration:
        """Run the controls and take the detectors' levels.

        Example:
            >>> file = ip.read_prompts("controls.csv")
            >>> Calibration.of(sd, file.texts).save("calibration.json")

        Args:
            session: model and settings, which are those of every later verdict.
            controls: prompts that are known not to be memorized, of the suspects' kind.
            seeds: how many images of each.
            memorized: some that are known to be, to say how many of them are found; levels do not
                depend on them.
            fpr, loose_fpr: the two shares of controls that may be above some detector's level.

        Raises:
            InterpError: there are fewer than two controls, or as in `detect.scan`.
        """
        if len(controls) < 2 or not 0 <= fpr <= loose_fpr < 1:
            raise InterpError(
                f"A calibration on {len(controls)} controls, with {fpr} and {loose_fpr} of them "
                "above, was asked for.",
                "It takes two controls, and shares from 0 to below 1, the first not the larger.",
                "Give more prompts that are not memorized: hundreds, for a level of 1 %.",
            )
        scores = means(scan(session, controls, range(seeds)))
        levels = [_levels(scores, rate) for rate in (fpr, loose_fpr)]
        judged = [
            _answer(row, *(_levels(np.delete(scores, place, 0), r) for r in (fpr, loose_fpr)))
            for place, row in enumerate(scores)
        ]
        found = None
        if len(memorized):
            known = means(scan(session, memorized, range(seeds)))
            found = _shares([_answer(row, *levels) for row in known])
        strict, loose = (dict(zip(DETECTORS, level.tolist(), strict=True)) for level in levels)
        return cls(
            dict(session.model),
            _settings(session, seeds),
            len(controls),
            fpr,
            loose_fpr,
            strict,
            loose,
            _shares(judged),
            found,
        )

    def differences(self, session: Session, seeds: int) -> list[str]:
        """What is another here than where this was made; nothing if it fits.

        Example:
            >>> calibration.differences(sd.but(steps=50), seeds=2)
            ['steps: ... in the calibration, 50 here']
        """
        ours = {**_of_model(session.model), **_flat(_settings(session, seeds))}
        theirs = {**_of_model(self.model), **_flat(self.settings)}
        ours["detectors"], theirs["detectors"] = sorted(DETECTORS), sorted(self.level)
        return [
            f"{name}: {_short(theirs.get(name))} in the calibration, {_short(ours.get(name))} here"
            for name in {**theirs, **ours}
            if theirs.get(name) != ours.get(name)
        ]

    def check(self, session: Session, seeds: int) -> None:
        """Refuse a session that this is not of.

        Raises:
            InterpError: model, settings or detectors are others; it names them.
        """
        if differs := self.differences(session, seeds):
            raise InterpError(
                f"A verdict on {session!r} with {seeds} seeds was asked for.",
                f"The calibration is of something else: {'; '.join(differs)}.",
                "Use what it was made with, or make one for this: interp calibrate.",
            )

    def verdict(self, scores: xr.Dataset) -> Verdict:
        """The answer for one prompt, from its `detect.scores`.

        Example:
            >>> calibration.verdict(detect.scores(trace)).answer     # "memorized", "unclear", ...
        """
        (row,) = means(scores.isel(prompt=[0]) if "prompt" in scores.dims else scores)
        strict, loose = (
            np.array([level[name] for name in DETECTORS])
            for level in (self.level, self.loose_level)
        )
        answer = _answer(row, strict, loose)
        above = [name for name, over in zip(DETECTORS, row > strict, strict=True) if over]
        named = f" ({'; '.join(above)})" if above else ""
        reason = (
            f"{len(above)} of {len(row)} detectors{named} are above a level that {self.fpr:.0%} of "
            f"{self.controls} controls may exceed, and {int((row > loose).sum())} above one that "
            f"{self.loose_fpr:.0%} may."
        )
        if answer == CLEAN and self.of_memorized and self.of_memorized[CLEAN] > MAJORITY:
            missed = f"{self.of_memorized[CLEAN]:.0%} of the prompts known to be memorized"
            return Verdict(UNCLEAR, f"{reason} But {missed} are above none: this clears nobody.")
        return Verdict(answer, reason)

    def reliability(self) -> str:
        """How far to trust a verdict, in a sentence.

        Example:
            >>> calibration.reliability()
            'Of ... controls, each judged by the others, ... are called memorized and ... unclear.'
        """
        said = (
            f"Of {self.controls} controls, each judged by the others, "
            f"{self.of_controls[MEMORIZED]:.0%} are called memorized and "
            f"{self.of_controls[UNCLEAR]:.0%} unclear"
        )
        if self.of_memorized is None:
            return f"{said}."
        return f"{said}; of known memorized ones, {self.of_memorized[MEMORIZED]:.0%} are found."

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON; the file is whole or as it was before."""
        target = Path(path)
        draft = tempfile.NamedTemporaryFile(  # noqa: SIM115  (renamed, not removed)
            "w", encoding="utf-8", dir=target.parent, suffix=".part", delete=False
        )
        try:
            with draft:
                draft.write(json.dumps(asdict(self), indent=2) + "\n")
            os.chmod(draft.name, 0o644)
            os.replace(draft.name, target)
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise
        return target

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Calibration:
        """Read what `save` wrote.

        Raises:
            InterpError: there is no such file, or it is something else.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as cause:
            raise InterpError(
                f"The calibration {str(path)!r} was to be read.",
                f"It is missing or something else ({cause}).",
                "Make one: interp calibrate --model MODEL --controls FILE.",
            ) from cause


def means(scores: xr.Dataset) -> np.ndarray:
    """Scores averaged over seeds, `[prompt, detector]`, in the order of `DETECTORS`."""
    return np.stack([np.atleast_1d(scores[name].mean("seed").values) for name in DETECTORS], -1)


def _levels(scores: np.ndarray, fpr: float) -> np.ndarray:
    """Each detector's, so that at most this share of the controls is above any."""
    return np.array([calibrate(column, fpr / len(DETECTORS)) for column in scores.T])


def _answer(row: np.ndarray, strict: np.ndarray, loose: np.ndarray) -> str:
    if (row > strict).any():
        return MEMORIZED
    return UNCLEAR if (row > loose).any() else CLEAN


def _shares(answers: Sequence[str]) -> dict[str, float]:
    return {
        name: round(answers.count(name) / len(answers), 4) for name in (MEMORIZED, UNCLEAR, CLEAN)
    }


def _settings(session: Session, seeds: int) -> dict[str, Any]:
    """As JSON keeps them."""
    written = session.provenance()
    plain = {**{name: written[name] for name in KEPT}, "seeds": seeds}
    return json.loads(json.dumps(plain, default=repr))


def _of_model(model: Mapping[str, Any]) -> dict[str, Any]:
    adapters = {f"adapter {name}": facts for name, facts in model.get("adapters", {}).items()}
    return {**model.get("parts", {}), **adapters}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    scheduler = {f"scheduler's {name}": value for name, value in settings["scheduler"].items()}
    return {**{k: v for k, v in settings.items() if k != "scheduler"}, **scheduler}


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 20 else f"{text[:12]}..."
