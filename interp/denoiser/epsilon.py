"""What the UNet predicted, as noise, whatever it was trained to predict.

Every detector of the field is written for noise prediction, and most official code feeds it
velocity (SD 2's 768-pixel models) unconverted, which is off by a factor of 13 at the first step.
Flow matching (SD 3, FLUX) predicts a velocity of another kind.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InterpError

FLOW = "flow_prediction"


def prediction(scheduler: Any) -> str:
    """Return what the model predicts, by its scheduler: "epsilon", "v_prediction", and others.

    Example:
        >>> prediction(sd3.scheduler)
        'flow_prediction'
    """
    # Schedulers that are made for flow matching alone do not say it.
    unsaid = FLOW if hasattr(scheduler, "scale_noise") else "epsilon"
    return scheduler.config.get("prediction_type", unsaid)


def alpha_bar(scheduler: Any, timestep: int | float) -> float:
    """Return the cumulative signal power of a timestep, interpolated between whole ones.

    Example:
        >>> round(alpha_bar(pipe.scheduler, 981), 5)
        0.00578

    Interpolation is linear in `sigma = sqrt((1 - abar) / abar)`, as in diffusers' own samplers. In
    flow matching the signal is `1 - t`, with `t` the timestep as a share of the training's.

    Raises:
        InterpError: the scheduler does not say how much signal there is.
    """
    if prediction(scheduler) == FLOW:
        return (1 - float(timestep) / scheduler.config.num_train_timesteps) ** 2
    if not hasattr(scheduler, "alphas_cumprod"):
        raise InterpError(
            f"A trace with a {type(scheduler).__name__} was asked for.",
            "It has no alphas_cumprod, by which predictions are read as noise.",
            "Trace with DDIM, Euler, DPM++ or another of Stable Diffusion's schedulers.",
        )
    table = scheduler.alphas_cumprod.double().cpu().numpy()
    if float(timestep).is_integer():
        return float(table[int(timestep)])
    sigma = np.interp(timestep, np.arange(len(table)), np.sqrt((1 - table) / table))
    return float(1 / (1 + sigma**2))


def to_epsilon(
    output: Float[Tensor, "*row c h w"],
    latents: Float[Tensor, "*row c h w"],
    abar: float,
    prediction: str,
) -> Float[Tensor, "*row c h w"]:
    """Return the noise that a prediction implies, in float32.

    Example:
        >>> v, z = torch.randn(2, 1, 4, 64, 64)
        >>> to_epsilon(v, z, alpha_bar(pipe.scheduler, 981), "v_prediction")

    With `z = sqrt(abar) x0 + sigma eps`: `eps = sqrt(abar) v + sigma z` for `v_prediction`, and
    `eps = (z - sqrt(abar) x0) / sigma` for `sample`. Differences of velocities at one `z`
    therefore scale by `sqrt(abar)` (Salimans & Ho 2022, appendix D). In flow matching
    `z = (1 - t) x0 + t eps` and `v = eps - x0`, so `eps = z + (1 - t) v`, and differences scale by
    `1 - t`, which is `sqrt(abar)` too: at the first step, where `t` is 1, they are 0.

    Args:
        output: what the UNet returned.
        latents: what the UNet was given (after the scheduler's input scaling).
        abar: see `alpha_bar`.
        prediction: see `prediction`.

    Raises:
        InterpError: the prediction type is another one.
    """
    signal, sigma = abar**0.5, (1 - abar) ** 0.5
    output = output.to(torch.float32)
    match prediction:
        case "epsilon":
            return output
        case "v_prediction":
            return signal * output + sigma * latents.to(torch.float32)
        case "flow_prediction":
            return signal * output + latents.to(torch.float32)
        case "sample":
            return (latents.to(torch.float32) - signal * output) / sigma
    raise InterpError(
        f"The noise implied by prediction_type={prediction!r} was asked for.",
        "Known prediction types are epsilon, v_prediction, sample and flow_prediction.",
        "Use a scheduler of Stable Diffusion.",
    )
