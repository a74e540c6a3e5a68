"""One training loop for every stage: resumable at any moment, the same result either way.

A stage draws a batch from the number of a step, and makes a loss of it. Whatever it draws, it draws
from that number, so a run that is killed and started again ends where an undisturbed one would (up
to the order in which a machine adds floats). On a GPU, batches are drawn ahead by other processes.
"""

import copy
import csv
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .products import as_products

Batch = TypeVar("Batch")

SAVE_EVERY_S = 120
LOG_EVERY = 50


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def matrix_units() -> bool:
    """Whether training is on a CPU that multiplies bfloat16 in units made for it (Intel's AMX)."""
    return device().type == "cpu" and torch.cpu._is_amx_tile_supported()


@contextmanager
def mixed_precision(module: nn.Module) -> Iterator[None]:
    """Matrix products in bfloat16 where the machine has units for them, weights in float32.

    On a CPU, attention is then made of plain products too: torch's fused kernel is slower there in
    bfloat16 than in float32.
    """
    where, plain = device().type, matrix_units()
    if where == "cpu" and not plain:
        yield
        return
    attention = sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()
    convolutions = as_products(module) if plain else nullcontext()
    with torch.autocast(where, torch.bfloat16), attention, convolutions:
        yield


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


class Drawn(Dataset):
    """The batches of a stage, by number of the step."""

    def __init__(self, batch_at: Callable[[int], Any]):
        self.batch_at = batch_at

    def __getitem__(self, step: int) -> Any:
        return self.batch_at(step)


def _as_it_is(batch: Batch) -> Batch:
    return batch


def workers() -> int:
    """Processes that draw batches ahead: beside a GPU all cores but two, and else none."""
    return max(1, (os.cpu_count() or 1) - 2) if device().type == "cuda" else 0


def batches(batch_at: Callable[[int], Batch], steps: range) -> Iterator[Batch]:
    """The batches of these steps, in order."""
    count = workers()
    loader = DataLoader(
        Drawn(batch_at), batch_size=None, sampler=steps, num_workers=count,
        prefetch_factor=4 if count else None, collate_fn=_as_it_is,
    )  # fmt: skip
    return iter(loader)


def lighten(checkpoint: Path, to: Path) -> None:
    """Write a checkpoint with its weights alone, in float16: an eighth of its size.

    Example:
        >>> lighten(Path("runs/organism/unet-eot.pt"), Path("data/checkpoints/unet-eot.pt"))

    Training goes on from it with a new warm-up and a new moving average.
    """
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in saved["module"].items()
    }
    to.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"module": weights, "step": saved["step"]}, to)


def fit(
    name: str,
    module: nn.Module,
    batch_at: Callable[[int], Batch],
    loss_of: Callable[[Batch], Tensor],
    folder: Path,
    *,
    steps: int,
    peak: float,
    warmup: int = 100,
    decay: float = 0.0,
    average: float | None = None,
    mixed: bool = True,
    until: int | None = None,
) -> nn.Module:
    """Train `module` for `steps` steps and return it, or its moving average if one is asked for.

    Example:
        >>> fit("toy", model, lambda step: batch(step), lambda batch: model(batch).square().mean(),
        ...     Path("runs"), steps=100, peak=1e-3)

    Args:
        batch_at: the batch of a step, from its number alone, on the CPU.
        loss_of: the loss of a batch.
        peak: the highest learning rate (AdamW).
        decay: weight decay.
        average: the decay of the moving average; None for none.
        mixed: in bfloat16 where the machine is fast at it; else all in float32.
        until: stop after that step and return the module as it is then, not its average.

    `folder/<name>.pt` is the checkpoint (written whole or not at all, minutes old at most) and
    `folder/<name>.csv` the losses. See `lighten` for one that travels.
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
    saved: dict[str, Any] = {"step": 0, "optimizer": optimizer.state_dict()}
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device(), weights_only=True)
        module.load_state_dict(saved["module"])
    start, again = saved["step"], 0
    if "optimizer" in saved:
        optimizer.load_state_dict(saved["optimizer"])
    else:  # a checkpoint that travelled with its weights alone: warm up once more
        again = start
    mean = Average(module, average) if average else None
    if mean is not None and "average" in saved:
        mean.load_state_dict(saved["average"])

    def save(step: int) -> None:
        state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        if mean is not None:
            state["average"] = mean.state_dict()
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, checkpoint)

    module.train()
    saved_at, since = time.monotonic(), []
    last = steps if until is None else min(until, steps)
    if until is not None and start > last:
        raise ValueError(f"{checkpoint} is {start} steps old: it cannot show how step {last} was")
    todo = range(start, last)
    drawn = batches(batch_at, todo)
    for step in tqdm(todo, name, total=steps, initial=start, disable=None):
        for group in optimizer.param_groups:
            group["lr"] = peak * rate(step, steps, warmup) * min(1, (step - again + 1) / warmup)
        with mixed_precision(module) if mixed else nullcontext():
            loss = loss_of(next(drawn))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        if mean is not None:
            mean.update(module, step)
        since.append(loss.detach())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == last:
            lost = float(torch.stack(since).mean())
            if not math.isfinite(lost):
                raise FloatingPointError(f"{name}: the loss is {lost} by step {step}")
            with open(log, "a", newline="", encoding="utf-8") as lines:
                csv.writer(lines, lineterminator="\n").writerow((step + 1, lost, time.time()))
            since = []
            if step + 1 == last or time.monotonic() - saved_at > SAVE_EVERY_S:
                save(step + 1)
                saved_at = time.monotonic()
    return (module if mean is None or until is not None else mean.module).eval()
