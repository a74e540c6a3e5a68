"""Every detector and mitigation of the field on one model, under one protocol.

    python -m analyses.method_benchmark                 # the embedded model, into out/methods
    python -m analyses.method_benchmark --reworded      # and under three rewordings of the prompts

Tables, the figure of detectors, their areas by level of views, and the frontier of mitigations, as
`interp benchmark` makes them; with `--reworded` the same for memorized prompts that are called
something else, in one table. Started again, it goes on where it was.

On the embedded model's 112 and 36 prompts that is about 250,000 UNet rows, 32,000 of them one by
one: by what a row takes on one core (11 to 18 ms in batches, 34 ms alone), some 40 minutes on two.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from interp.benchmark import WORDINGS
from interp.cli.benchmark import benchmark
from interp.cli.options import Clip, Controls, Descriptor, Model, Suspects, Workers

OUT = Path("out/methods")


def main(
    model: Model = "embedded",
    prompts: Suspects = None,
    controls: Controls = None,
    out: Annotated[Path, typer.Option(help="Folder for stores, tables and figures.")] = OUT,
    quick: Annotated[bool, typer.Option(help="Minutes, and wide intervals: a test.")] = False,
    reworded: Annotated[bool, typer.Option(help="Also under rewordings.")] = False,
    retrigger: Annotated[int, typer.Option(help="Prompts for the search for embeddings.")] = 3,
    sscd: Descriptor = None,
    clip: Clip = None,
    workers: Workers = 2,
) -> dict[str, pd.DataFrame]:
    """Run the benchmark, and write `detectors.csv` and `mitigations.csv` over all wordings."""
    parts: dict[str, list[pd.DataFrame]] = {"detectors": [], "mitigations": []}
    for wording in WORDINGS if reworded else ["original"]:
        found = benchmark(
            model, prompts, controls, out / wording, quick=quick, wording=wording, sscd=sscd,
            clip=clip, workers=workers, retrigger=retrigger if wording == "original" else 0,
        )  # fmt: skip
        for rows, table in zip(parts.values(), found, strict=True):
            rows.append(table.assign(wording=wording))
    joined = {name: pd.concat(rows, ignore_index=True) for name, rows in parts.items()}
    for name, table in joined.items():
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    return joined


if __name__ == "__main__":
    typer.run(main)
