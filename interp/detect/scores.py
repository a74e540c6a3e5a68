"""All detectors at once, one number per image, for tables and for the command line.

A new detector is one line in `DETECTORS`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import xarray as xr
from tqdm.auto import tqdm

from interp.denoiser.epsilon import FLOW, prediction
from interp.denoiser.layers import sites
from interp.detect.bright_ending import bright_ending
from interp.detect.entropy import early_entropy, late_entropy
from interp.detect.guidance import guidance_norm
from interp.detect.score_change import score_change
from interp.errors import InterpError
from interp.record.recorders import Recorder, maps, token_mass
from interp.results.numbers import Seeds
from interp.results.provenance import stamp
from interp.session import Session
from interp.text.prompt import Prompt
from interp.transformer.family import calls, family

FEWEST_STEPS = 3
"""The score's change is between the second and the third."""
Detector = Callable[[xr.Dataset], xr.DataArray]


def _whole(detector: Detector) -> Detector:
    return lambda trace: detector(trace).mean("step")


#: The field's detectors with the authors' settings, by name.
DETECTORS: dict[str, Detector] = {
    "guidance norm": _whole(guidance_norm),
    "guidance norm, first step": partial(guidance_norm, first=1),
    "score change": partial(score_change, step=2),
    "early entropy": early_entropy,
    "late entropy": late_entropy,
    "bright ending": _whole(bright_ending),
}


def defined(pipe: Any) -> dict[str, Detector]:
    """Return those of `DETECTORS` that are defined on a pipeline.

    Example:
        >>> list(defined(sd3))
        ['guidance norm', 'score change']

    Early entropy and bright endings are of a UNet's layers, late entropy is of attention to the
    text alone (PixArt has that), and in flow matching the first step's guidance is 0.
    """
    known = family(pipe)
    out: set[str] = set()
    if known is not None:
        out = {"early entropy", "bright ending", *(["late entropy"] if known.joint else [])}
    if prediction(pipe.scheduler) == FLOW:
        out |= {"guidance norm, first step"}
    return {name: detector for name, detector in DETECTORS.items() if name not in out}


def recorders(pipe: Any) -> tuple[Recorder, ...]:
    """Return what `Session.trace` must record for all of `defined(pipe)`.

    Example:
        >>> trace = sd.trace("a photo of a goat", record=detect.recorders(sd.pipe))

    Attention per position everywhere, and maps in the first down block that has cross-attention:
    `down.0` in SD 1 and 2, `down.1` in SDXL.
    """
    known = family(pipe)
    if known is not None:
        return () if known.joint else (token_mass,)
    block, _, _ = sites(pipe.unet)[0].name.rpartition(".")
    return token_mass, maps(layers=block)


def scores(trace: xr.Dataset, detectors: Mapping[str, Detector] = DETECTORS) -> xr.Dataset:
    """Return every detector's score of every image as one dataset over (prompt, seed).

    Example:
        >>> trace = sd.trace(prompts, seeds=range(4), record=detect.recorders(sd.pipe))
        >>> detect.scores(trace).mean("seed").to_dataframe()

    Args:
        trace: from `Session.trace`, with what the detectors need.
        detectors: functions of a trace by name.

    Raises:
        InterpError: the trace lacks what a detector needs; leave that detector out, or record it.
    """
    found = {name: detector(trace).reset_coords(drop=True) for name, detector in detectors.items()}
    other = set(trace.dims) - {"patch", "prompt", "seed"}
    kept = trace.coords.to_dataset().drop_dims(other, errors="ignore")
    return stamp(xr.Dataset(found, kept.coords, trace.attrs), detectors=list(detectors))


def ready(sd: Session) -> None:
    """Refuse, before anything runs, a session that some detector cannot score.

    Example:
        >>> ready(ip.load(steps=2))
        Traceback (most recent call last):
        interp.errors.InterpError: ...

    Raises:
        InterpError: there are fewer than three steps, or there is no guidance.
    """
    if sd.steps < FEWEST_STEPS or not sd.guided:
        raise InterpError(
            f"Every detector's score at {sd.steps} steps and guidance {sd.guidance} was asked for.",
            f"Together they take {FEWEST_STEPS} steps, of which two are compared, and "
            f"{calls(sd.pipe).guide}.",
            "Ask for more: --steps 25, or Session(pipe, steps=25, guidance=7.5).",
        )


def scan(
    sd: Session,
    prompts: Sequence[str | Prompt],
    seeds: Seeds = range(4),
    detectors: Mapping[str, Detector] | None = None,
) -> xr.Dataset:
    """Trace prompt by prompt and keep only the scores, so memory does not grow with the list.

    Example:
        >>> detect.scan(sd, read_prompts("memorized.csv").texts)["guidance norm"].mean("seed")

    The maps of one image take 0.8 GB with SD 1.4 at 50 steps, and are recorded even if `detectors`
    lacks "bright ending". Where that is too much, call `scores` on a trace of your own.

    Raises:
        InterpError: there are no prompts, or as in `Session.trace` and `scores`.
    """
    if not prompts:
        raise InterpError("A scan was asked for.", "There are none.", "Pass at least one.")
    if detectors is None:
        ready(sd)
        detectors = defined(sd.pipe)
    wanted = recorders(sd.pipe)
    parts = [
        scores(sd.trace(prompt, seeds, record=wanted or None), detectors)
        for prompt in tqdm(prompts, unit="prompt", disable=None)
    ]
    texts = [str(part.text.item()) for part in parts]
    joined = xr.concat(parts, "prompt", coords="minimal", compat="override")
    joined = joined.assign_coords(prompt=range(len(parts)))
    return stamp(joined, prompts=texts)
