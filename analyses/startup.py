"""How long `interp` takes to import, against the libraries that it builds on: medians of five.

    python -m analyses.startup

Processor time of fresh processes, so that other programs on the machine count for little.
"""

import resource
import subprocess
import sys
from statistics import median

import pandas as pd
import typer

BARE = "bare libraries"
STARTED = {
    BARE: "import torch, xarray; from transformers import CLIPTextModel, CLIPTokenizer; "
    "from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline",
    "import interp": "import interp",
    "interp --help": "from interp.cli import main; main(['--help'])",
    "interp.load, Session": "import interp; interp.load, interp.Session",
    "every public name": "import interp; [getattr(interp, name) for name in interp.__all__]",
}


def seconds(code: str) -> float:
    """Processor time of a fresh interpreter that runs the code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    quiet = subprocess.DEVNULL
    subprocess.run([sys.executable, "-c", code], stdout=quiet, stderr=quiet, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def main(repeats: int = 5) -> pd.DataFrame:
    """Print the medians, and their ratios to the bare libraries'."""
    found = {name: [] for name in STARTED}
    for _ in range(repeats):
        for name, code in STARTED.items():
            found[name].append(seconds(code))
    medians = {name: median(each) for name, each in found.items()}
    frame = pd.DataFrame({"seconds": medians})
    frame["times the bare libraries"] = frame.seconds / frame.seconds[BARE]
    print(frame.to_markdown(floatfmt=".2f"))
    return frame


if __name__ == "__main__":
    typer.run(main)
