"""A small sweep for processes of their own: what they run, and ways to die of it."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import xarray as xr

import interp as ip

TEXTS = [f"{number} goats in a church" for number in range(8)]
SETTINGS: dict[str, Any] = {"steps": 1, "height": 16, "width": 16}
ASKED: dict[str, Any] = {
    "patches": {"h": ip.zero("pad"), "rta": ip.mitigations.random_tokens(1)},
    "seeds": 2,
    "metrics": {
        "l2": ip.metrics.pixel_l2,
        "diversity": ip.metrics.Diversity(ip.metrics.pixel_l2),
    },
    "record": ip.mass,
    "images": True,
}


def small(folder: Path, store: Path, texts: Any = TEXTS, **asked: Any) -> xr.Dataset:
    """The sweep, with a model loaded from a folder."""
    return ip.sweep(ip.load(folder, **SETTINGS), texts, store=store, **{**ASKED, **asked})


def in_a_process(folder: Path, store: Path, begun: Any) -> None:
    """The sweep in a process that says when it begins."""
    torch.set_num_threads(1)
    session = ip.load(folder, **SETTINGS)
    begun.set()
    ip.sweep(session, TEXTS, store=store, **ASKED)


def die_at(count: int, folder: Path) -> None:
    """Kill this process before it changes anything below a folder for the count-th time."""
    left = [count]

    def watch(event: str, args: tuple) -> None:
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in ("os.rename", "os.mkdir")) and str(args[0]).startswith(str(folder)):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
