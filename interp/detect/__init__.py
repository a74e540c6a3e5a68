"""Detectors: is this prompt memorized? Most are functions of one recorded trace, others of a case.

    trace = sd.trace(prompts, seeds=range(4), record=detect.recorders(sd.pipe))
    detect.scores(trace)                                   # every detector, (prompt, seed)
    detect.guidance_norm(trace)                            # one of them, (prompt, seed, step)

    case = detect.Case(sd, prompt, seeds=4)                # gradients, several images, and more
    detect.examine(case)                                   # every detector, one run
    detect.seed_likeness(case)                             # one of them, (seed)

Scores grow with memorization. A threshold is no part of a detector: `calibrate` it on controls; a
`Calibration` holds those of all detectors on one model, and answers.
"""

from interp.detect.anisotropy import alignment, anisotropy
from interp.detect.bright_ending import bright_ending
from interp.detect.calibrate import calibrate
from interp.detect.calibration import Calibration, Verdict
from interp.detect.case import Case
from interp.detect.condition_jacobian import condition_jacobian
from interp.detect.curvature import curvature, curvature_map, guidance_map
from interp.detect.decomposition import decomposition, early_image
from interp.detect.dimension import flipd, low_dimension
from interp.detect.entropy import attention_entropy, early_entropy, late_entropy
from interp.detect.extraction import clique_size
from interp.detect.guidance import guidance_norm
from interp.detect.noise_likeness import noise_likeness
from interp.detect.one_step import one_step_distance
from interp.detect.p_laplace import convergence, p_laplacian
from interp.detect.pull_back import pull_back
from interp.detect.registry import METHODS, Method, examine
from interp.detect.roc import roc
from interp.detect.score_change import score_change
from interp.detect.scores import DETECTORS, Detector, defined, ready, recorders, scan, scores
from interp.detect.seed_likeness import seed_likeness
from interp.detect.sharpness import sharpness
from interp.detect.update_norm import instability, update_norm

__all__ = [
    "DETECTORS",
    "METHODS",
    "Calibration",
    "Case",
    "Detector",
    "Method",
    "Verdict",
    "alignment",
    "anisotropy",
    "attention_entropy",
    "bright_ending",
    "calibrate",
    "clique_size",
    "condition_jacobian",
    "convergence",
    "curvature",
    "curvature_map",
    "decomposition",
    "defined",
    "early_entropy",
    "early_image",
    "examine",
    "flipd",
    "guidance_map",
    "guidance_norm",
    "instability",
    "late_entropy",
    "low_dimension",
    "noise_likeness",
    "one_step_distance",
    "p_laplacian",
    "pull_back",
    "ready",
    "recorders",
    "roc",
    "scan",
    "score_change",
    "scores",
    "seed_likeness",
    "sharpness",
    "update_norm",
]
