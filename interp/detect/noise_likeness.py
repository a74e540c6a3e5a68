"""How alike first noise predictions of different seeds are: NeMo's test, as a detector.

A memorized prompt adds one and the same picture to any noise. One conditional prediction a seed is
enough; `attribute.likeness` has the values of all pairs. Maps below 44 x 44 are compared at fewer
scales than the authors', so their level does not hold there: calibrate.
"""

import xarray as xr

from interp.attribute.neurons import likeness
from interp.detect.case import Case
from interp.errors import InterpError


def noise_likeness(case: Case, timestep: int = 1, data_range: float | None = None) -> xr.DataArray:
    """Return the largest similarity of two seeds' `eps_c - x_T`, one number for all seeds.

    Example:
        >>> noise_likeness(Case(sd, prompt, seeds=10)) > 0.428      # the authors' level for SD 1.4

    Cost: three UNet rows a seed, of which the formula needs one; two at timestep 0.

    Args:
        timestep, data_range: as in `attribute.likeness`, by default as in the authors' code.

    Source: Hintersdorf et al., "Finding NeMo", NeurIPS 2024, section 3. The authors' code tells the
    UNet the second timestep of the first one's noise, for which it calls it twice.

    Raises:
        InterpError: there is one seed only, or as in `attribute.likeness`.
    """
    if len(case.seeds) < 2:
        raise InterpError(
            "Noise predictions of different seeds were to be compared.",
            f"The case has one seed, {case.seeds[0]}.",
            "Give more: Case(sd, prompt, seeds=10).",
        )
    pairs = likeness(
        case.session, case.prompt, case.seeds, timestep=timestep, data_range=data_range
    )
    return pairs.max().rename("noise_likeness")
