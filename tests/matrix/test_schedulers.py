"""With every sampler, `steps=` counts UNet calls, in the second run as in the first."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import interp as ip
from interp import InterpError
from tests.matrix.families import TEXT
from tests.matrix.oracle import EFFECT, run

SCHEDULERS = {
    "DDIM": 3, "DDPM": 3, "PNDM": 4, "LCM": 3, "TCD": 3, "DDIMParallel": 3, "DDPMParallel": 3,
    "EulerDiscrete": 3, "EulerAncestralDiscrete": 3, "LMSDiscrete": 3, "HeunDiscrete": 5,
    "KDPM2Discrete": 5, "KDPM2AncestralDiscrete": 5, "DPMSolverMultistep": 3,
    "DPMSolverSinglestep": 3, "DEISMultistep": 3, "UniPCMultistep": 3, "SASolver": 3,
    "EDMEuler": 3, "EDMDPMSolverMultistep": 3, "IPNDM": 3, "CMStochasticIterative": 3,
}  # fmt: skip
"""How often three steps call the UNet."""
UNTRACED = {"EDMEuler", "EDMDPMSolverMultistep", "IPNDM", "CMStochasticIterative"}


@contextmanager
def edited(pipe: Any, at: int) -> Iterator[list[float]]:
    """By a hook of the test's own: 70 % of the pads are zeros in call number `at` of every run."""
    (prompt,) = ip.encode(pipe, TEXT)
    new = ip.zero("pad", fraction=0.7).embeds(prompt)
    calls: list[float] = []

    def before(module: Any, args: Any, kwargs: Any) -> Any:
        calls.append(float(args[1]))
        if (len(calls) - 1) % per_run != at:
            return None
        text: Tensor = kwargs["encoder_hidden_states"].clone()
        text[1] = new
        return args, kwargs | {"encoder_hidden_states": text}

    per_run = SCHEDULERS[type(pipe.scheduler).__name__.removesuffix("Scheduler")]
    handle = pipe.unet.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_steps_are_unet_calls(sd1: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kind = getattr(diffusers, f"{name}Scheduler")
    more = {"skip_prk_steps": True} if name == "PNDM" else {}
    monkeypatch.setattr(sd1, "scheduler", kind.from_config(sd1.scheduler.config, **more))
    count = SCHEDULERS[name]
    for at in (0, 1):
        with edited(sd1, at) as calls:
            right = [run(sd1, steps=3) for _ in range(2)]
        assert len(calls) == 2 * count
        with ip.zero("pad", fraction=0.7, steps=at).on(sd1), ip.record(sd1) as log:
            ours = [run(sd1, steps=3) for _ in range(2)]
        assert all(torch.equal(a, b) for a, b in zip(ours, right, strict=True))
        if at == 1:  # IPNDM's first prediction moves nothing
            assert (right[0] - run(sd1, steps=3)).abs().max() > EFFECT
        assert log.dataset().sizes["step"] == count
    session = ip.Session(sd1, steps=3)
    if name in UNTRACED:
        with pytest.raises(InterpError, match=f"A trace with a {name}Scheduler"):
            session.trace(TEXT)
    else:
        assert session.trace(TEXT).sizes["step"] == count
