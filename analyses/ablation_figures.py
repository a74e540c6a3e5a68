"""The paper's sections 3 and 4 on any model: what is left of an image when embeddings are edited.

    python -m analyses.ablation_figures                  # the embedded model, into out/ablation
    python -m analyses.ablation_figures --model CompVis/stable-diffusion-v1-4 \
        --prompts memorized.csv --controls controls.csv --sscd sscd_disc_mixup.torchscript.pt

`interp ablate`, without the command line around it.
"""

import typer

from interp.cli.ablate import ablate as main

if __name__ == "__main__":
    typer.run(main)
