"""Figures as pure functions of data: each takes a dataset and returns a matplotlib `Figure`.

    figure = plot.mass_over_steps(run.assign_coords(kind=("prompt", kinds)))
    plot.save(figure, "out", "mass_over_steps")                    # PDF and PNG

What figures know about prompts are coordinates on the axis `prompt`, all of them optional: `kind`
("memorized" or "control"), `group` (the training image, by which intervals are bootstrapped),
`views` (how often that image was shown) and `length` (of the prompt, in tokens).
"""

from interp.plot.ablation import ablation
from interp.plot.attribution import (
    agreement_scatter,
    head_grid,
    layer_step_map,
    running_sum,
    shapley_bars,
)
from interp.plot.benchmark import detector_levels, detector_rates, frontier
from interp.plot.curves import length_curve, scale_curve, views_curve
from interp.plot.detection import detector_scores, roc
from interp.plot.embeddings import embedding_pca, pad_similarity
from interp.plot.images import image_grid
from interp.plot.mass import mass_over_layers, mass_over_steps
from interp.plot.style import save

__all__ = [
    "ablation",
    "agreement_scatter",
    "detector_levels",
    "detector_rates",
    "detector_scores",
    "embedding_pca",
    "frontier",
    "head_grid",
    "image_grid",
    "layer_step_map",
    "length_curve",
    "mass_over_layers",
    "mass_over_steps",
    "pad_similarity",
    "roc",
    "running_sum",
    "save",
    "scale_curve",
    "shapley_bars",
    "views_curve",
]
