"""Detectors: is this prompt memorized? Each is a function of one recorded trace.

    trace = sd.trace(prompts, seeds=range(4), record=detect.recorders(sd.pipe))
    detect.scores(trace)                                   # every detector, (prompt, seed)
    detect.guidance_norm(trace)                            # one of them, (prompt, seed, step)

Scores grow with memorization. A threshold is no part of a detector: `calibrate` it on controls; a
`Calibration` holds those of all detectors on one model, and answers.
"""

from interp.detect.bright_ending import bright_ending
from interp.detect.calibrate import calibrate
from interp.detect.calibration import Calibration, Verdict
from interp.detect.entropy import attention_entropy, early_entropy, late_entropy
from interp.detect.guidance import guidance_norm
from interp.detect.roc import roc
from interp.detect.score_change import score_change
from interp.detect.scores import DETECTORS, Detector, ready, recorders, scan, scores

__all__ = [
    "DETECTORS",
    "Calibration",
    "Detector",
    "Verdict",
    "attention_entropy",
    "bright_ending",
    "calibrate",
    "early_entropy",
    "guidance_norm",
    "late_entropy",
    "ready",
    "recorders",
    "roc",
    "scan",
    "score_change",
    "scores",
]
