"""The report for people who run no code: which prompts are memorized, why, and what helps.

    python -m analyses.attribution_report                     # the embedded model, into out/report
    python -m analyses.attribution_report --model CompVis/stable-diffusion-v1-4 \
        --prompts memorized.csv --controls controls.csv --sscd sscd_disc_mixup.torchscript.pt
    python -m analyses.attribution_report --from out/report/report.nc      # again, without a model

`interp report`, without the command line around it.
"""

import typer

from interp.cli.report import report as main

if __name__ == "__main__":
    typer.run(main)
