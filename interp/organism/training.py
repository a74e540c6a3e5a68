"""One training loop for every stage: resumable at any moment, the same result either way.

A stage is a function from step number to loss. Whatever it draws, it draws from the step number, so
a run that is killed and started again ends where an undisturbed one would (up to the order in which
a machine adds floats).
"""

import copy
import csv
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

SAVE_EVERY_S = 120
LOG_EVERY = 50


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Average(nn.Module):
    """An exponential moving average of a module's weights, short at first and long later."""

    def __init__(self, module: nn.Module, decay: float):
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = list(module.parameters())
        torch._foreach_lerp_(mine, theirs, 1 - decay)


def rate(step: int, steps: int, warmup: int) -> float:
    """Learning rate as a share of its peak: linear warm-up, then a cosine down to 2 %."""
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def fit(
    name: str,
    module: nn.Module,
    loss_at: Callable[[int], Tensor],
    folder: Path,
    *,
    steps: int,
    peak: float,
    warmup: int = 100,
    decay: float = 0.0,
    average: float | None = None,
) -> nn.Module:
    """Train `module` for `steps` steps and return it, or its moving average if one is asked for.

    >>> fit("toy", model, lambda step: model(batch(step)).square().mean(), Path("runs"),
    ...     steps=100, peak=1e-3)

    Args:
        loss_at: the loss of a step, from its number alone.
        peak: the highest learning rate (AdamW).
        decay: weight decay.
        average: the decay of the moving average; None for none.

    `folder/<name>.pt` is the checkpoint (written whole or not at all, at most two minutes old) and
    `folder/<name>.csv` the losses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, log = folder / f"{name}.pt", folder / f"{name}.csv"
    groups: list[dict[str, Any]] = [
        {"params": [p for p in module.parameters() if p.requires_grad and p.ndim > 1]},
        {"params": [p for p in module.parameters() if p.requires_grad and p.ndim <= 1],
         "weight_decay": 0.0},
    ]  # fmt: skip
    optimizer = torch.optim.AdamW(
        groups, lr=peak, betas=(0.9, 0.99), weight_decay=decay, fused=True
    )
    mean = Average(module, average) if average else None
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device(), weights_only=True)
        module.load_state_dict(saved["module"])
        optimizer.load_state_dict(saved["optimizer"])
        if mean is not None:
            mean.load_state_dict(saved["average"])
        start = saved["step"]

    def save(step: int) -> None:
        state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        if mean is not None:
            state["average"] = mean.state_dict()
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, checkpoint)

    module.train()
    saved_at, since = time.monotonic(), []
    for step in tqdm(range(start, steps), name, total=steps, initial=start, disable=None):
        for group in optimizer.param_groups:
            group["lr"] = peak * rate(step, steps, warmup)
        loss = loss_at(step)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"{name}: the loss is {loss.item()} at step {step}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if mean is not None:
            mean.update(module, step)
        since.append(loss.item())
        if (step + 1) % LOG_EVERY == 0:
            with open(log, "a", newline="", encoding="utf-8") as lines:
                row = (step + 1, sum(since) / len(since), time.time())
                csv.writer(lines, lineterminator="\n").writerow(row)
            since = []
        if step + 1 == steps or time.monotonic() - saved_at > SAVE_EVERY_S:
            save(step + 1)
            saved_at = time.monotonic()
    return (module if mean is None else mean.module).eval()
