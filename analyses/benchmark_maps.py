"""What the toolkit's long computations cost compared with the plain way, in one run.

    python -m analyses.benchmark_maps               # the embedded model, into out/benchmark

A causal map of every layer and step, exact and to first order, against one generation per cell; and
a sweep against a loop over a stock pipeline. The plain map is not run - it would take hours - but
counted: its rows of the UNet, at the seconds that a row takes in a batch of the stock pipeline.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import pandas as pd
import torch
import typer

import interp as ip
from interp import attribute, plot
from interp.cli.options import Model, Steps
from interp.report.cases import known

PATCHED = ("prompt", "eot", "pad")
OUT = Path("out/benchmark")


def main(
    model: Model = "embedded",
    out: Annotated[Path, typer.Option(help="Folder for tables and the figure.")] = OUT,
    steps: Steps = 50,
    seeds: Annotated[int, typer.Option(help="Images of each edit in the sweep.", min=1)] = 4,
) -> dict[str, pd.DataFrame]:
    """Time both, and write `maps.md`, `sweep.md` (and CSV) and the scatter of the two maps."""
    out.mkdir(parents=True, exist_ok=True)
    sd = ip.load(model, steps=steps)
    memorized, control = known(limit=1)
    both, maps = causal_maps(sd, memorized.text, control.text)
    plot.save(plot.agreement_scatter(both), out, "maps")
    found = {"maps": maps, "sweep": sweeps(sd, memorized.text, seeds)}
    for name, frame in found.items():
        frame.to_csv(out / f"{name}.csv", lineterminator="\n")
        (out / f"{name}.md").write_text(frame.to_markdown(floatfmt=".4g") + "\n")
        print(frame.to_markdown(floatfmt=".4g"), end="\n\n")
    return found


def causal_maps(sd: ip.Session, text: str, donor: str) -> tuple[Any, pd.DataFrame]:
    """All layers x steps x 3 categories for one prompt and seed: rows, seconds, agreement."""
    patches = {name: ip.swap(name, sd.encode(donor), "nearest") for name in PATCHED}
    sd.run(text, [0])  # the first call is slower
    a_row = timed(lambda: sd.run(text, range(8)))[1] / (8 * 2 * sd.steps)
    exact, exact_s = timed(lambda: attribute.causal_trace(sd, text, patches))
    estimate, estimate_s = timed(lambda: attribute.attribution_patching(sd, text, patches))
    both = attribute.agreement(exact, estimate)
    naive = exact.attrs["unet_rows_naive"]
    rows = {
        "one generation per cell (counted)": (naive, naive * a_row),
        "exact, on the clean trajectory": (exact.attrs["unet_rows"], exact_s),
        "first order": (estimate.attrs["unet_rows"], estimate_s),
    }
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["UNet rows", "seconds"])
    frame["rows, times fewer"] = naive / frame["UNet rows"]
    frame["seconds, times fewer"] = naive * a_row / frame["seconds"]
    frame["rank correlation with exact"] = [float("nan"), 1.0, both.spearman.item()]
    return both, frame


def sweeps(sd: ip.Session, text: str, seeds: int) -> pd.DataFrame:
    """The paper's interventions on one prompt: `ip.sweep` against a loop of pipeline calls."""
    edits = ip.paper.interventions()
    with TemporaryDirectory() as folder:
        store = Path(folder) / "sweep.zarr"
        _, ours = timed(lambda: ip.sweep(sd, [text], edits, seeds, store=store, images=True))
    _, plain = timed(lambda: loop(sd, text, edits, seeds))
    frame = pd.DataFrame(
        {"seconds": [plain, ours]}, index=["loop over the stock pipeline", "ip.sweep"]
    )
    frame["times faster"] = plain / frame["seconds"]
    return frame


def loop(sd: ip.Session, text: str, edits: Mapping[str, ip.Patch], seeds: int) -> None:
    """What one writes without a sweep: every edit and seed a call of the pipeline."""
    for edit in (None, *edits.values()):
        with nullcontext() if edit is None else edit.on(sd.pipe):
            for seed in range(seeds):
                draw = torch.Generator().manual_seed(seed)
                sd.pipe(text, num_inference_steps=sd.steps, generator=draw)


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and the seconds that it took."""
    start = time.perf_counter()
    found = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return found, time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
