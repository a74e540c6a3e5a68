"""Every detector as a row of one table: how it is called, what it needs and what it costs.

For comparing detectors. What `scores`, calibrations and verdicts are made of is `DETECTORS`, which
read a trace alone and come first here. A new detector of the other kind is one file with a function
of a `Case`, one line here, and one test.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import xarray as xr

from interp.denoiser.unet_call import calls_per_run
from interp.detect.anisotropy import anisotropy
from interp.detect.case import Case
from interp.detect.condition_jacobian import condition_jacobian
from interp.detect.curvature import PROBES, curvature, guidance_map
from interp.detect.decomposition import early_image
from interp.detect.dimension import low_dimension
from interp.detect.extraction import clique_size
from interp.detect.noise_likeness import noise_likeness
from interp.detect.one_step import one_step_distance
from interp.detect.p_laplace import convergence
from interp.detect.pull_back import pull_back
from interp.detect.scores import DETECTORS, Detector
from interp.detect.seed_likeness import seed_likeness
from interp.detect.sharpness import sharpness
from interp.detect.update_norm import instability
from interp.errors import InterpError
from interp.results.axes import LATENT
from interp.results.provenance import stamp
from interp.session import Session

Need = Literal["run", "images", "seeds", "gradients", "training image", "controls"]
"""A whole run; its decoded images; two seeds; derivatives of the UNet; what a `Case` is told."""

DERIVATIVE = 2
"""Rows that a derivative of one row is taken to cost beside it."""


@dataclass(frozen=True)
class Method:
    """A detector beside others.

    Attributes:
        score: of a case, over (seed), or one number for all seeds; it grows with memorization.
        needs: what it takes beside prompt and model.
        rows: UNet rows a seed, beside those of the run where it needs one.
        derivatives: how many rows a seed are differentiated, once each.
    """

    score: Callable[[Case], xr.DataArray]
    needs: tuple[Need, ...] = ()
    rows: int = 0
    derivatives: int = 0

    def cost(self, session: Session) -> int:
        """Return what it costs alone, in UNet rows a seed.

        Example:
            >>> METHODS["guidance norm"].cost(sd.but(steps=50))       # with guidance
            100
        """
        run = calls_per_run(session.pipe, session.steps) * (2 if session.guided else 1)
        whole = bool({"run", "images"} & set(self.needs))
        return run * whole + self.rows + DERIVATIVE * self.derivatives

    def lacks(self, case: Case) -> list[str]:
        """Return what it needs and the case has not.

        Example:
            >>> METHODS["clique size"].lacks(Case(sd, "a goat", seeds=1))
            ['seeds']
        """
        there = {
            "training image": case.training is not None,
            "controls": case.controls is not None,
            "seeds": len(case.seeds) > 1,
        }
        return [need for need in self.needs if not there.get(need, True)]


def _of_trace(detector: Detector) -> Method:
    return Method(lambda case: detector(case.trace).isel(prompt=0, drop=True), ("run",))


#: All detectors with the authors' settings, by name.
METHODS: Mapping[str, Method] = {
    **{name: _of_trace(detector) for name, detector in DETECTORS.items()},
    "seed likeness": Method(seed_likeness, ("images", "seeds")),
    "clique size": Method(clique_size, ("images", "seeds")),
    "one step distance": Method(one_step_distance, (), 2),
    "noise likeness": Method(noise_likeness, ("seeds",), 3),
    "anisotropy": Method(anisotropy, (), 4),
    "sharpness": Method(sharpness, ("gradients",), 4, 2),
    "pull back": Method(pull_back, ("gradients",), 4, 2),
    "condition Jacobian": Method(condition_jacobian, ("gradients",), 3, 1),
    "low dimension": Method(low_dimension, ("run", "gradients"), 2, 2),
    "convergence": Method(convergence, ("run", "gradients"), 2, 2),
    "curvature": Method(curvature, ("run", "gradients"), 2, 2 * PROBES),
    "guidance map": _of_trace(lambda trace: guidance_map(trace).mean(LATENT[1:])),
    "instability": Method(instability, ("run", "controls")),
    "early image": Method(early_image, ("run", "training image")),
}


def examine(case: Case, methods: Mapping[str, Method] | None = None) -> xr.Dataset:
    """Return the scores of one prompt by many detectors, over (seed) or without it.

    Example:
        >>> examine(Case(sd, "Antique Church Poster in Berlin", seeds=4)).mean().to_pandas()
        >>> cheap = {n: m for n, m in METHODS.items() if m.cost(sd) < 10}
        >>> examine(case, cheap)

    Args:
        case: the prompt; its run is made once, where some detector needs it.
        methods: by name; by default all whose needs the case meets.

    Returns:
        A variable for each, with `rows` among its attributes: what it costs alone, in UNet rows a
        seed. `text` is the prompt; join those of several with `xr.concat(parts, "prompt")`.

    Raises:
        InterpError: the case lacks what a method that was asked for needs.
    """
    if methods is None:
        methods = {name: method for name, method in METHODS.items() if not method.lacks(case)}
    for name, method in methods.items():
        if lacking := method.lacks(case):
            raise InterpError(
                f"The score by {name!r} was asked for, which needs {', '.join(method.needs)}.",
                f"The case lacks {' and '.join(lacking)}.",
                "Leave it out, or give them: Case(sd, prompt, seeds=4, training=, controls=).",
            )
    found = xr.Dataset(coords={"seed": list(case.seeds), "text": case.prompt.text})
    for name, method in methods.items():
        score = method.score(case).reset_coords(drop=True)
        found[name] = score.assign_attrs(rows=method.cost(case.session))
    return stamp(
        found,
        **case.session.provenance(),
        prompts=[case.prompt.text],
        seeds=list(case.seeds),
        detectors=list(methods),
    )
