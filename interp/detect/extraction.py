"""Which images come back, seed after seed, pixel for pixel: extraction without the training set.

The strictest of the detectors, and the most expensive: hundreds of whole images of one prompt. It
finds exact copies alone; a memorized style, template or shifted copy has no clique.
"""

import networkx
import xarray as xr

from interp.detect.case import Case
from interp.detect.seed_likeness import between_seeds
from interp.metrics.pixels import TileL2


def clique_size(case: Case, threshold: float = 0.15, tiles: int = 4) -> xr.DataArray:
    """Return how many of the images are all near copies of one another, one number for all seeds.

    Example:
        >>> clique_size(Case(sd, prompt, seeds=500)) >= 10          # Carlini et al.'s rule

    Two images are joined where the largest distance between their tiles is below the threshold, and
    the score is the size of the largest clique, 1 where no two are joined. It is found exactly, by
    networkx's `max_weight_clique`.

    Cost: the images; no further UNet row.

    Args:
        threshold: of `TileL2`, the root mean square difference of the worst tile.
        tiles: along each side: 4, which is tiles of 128 in an image of 512.

    Source: Carlini et al., "Extracting Training Data from Diffusion Models", USENIX Security 2023,
    section 4.2: 500 images of each of 350,000 captions, and cliques of 10 or more. We have not seen
    how their own search for the largest clique works; this one tries all that may be the largest.

    Raises:
        InterpError: there is one seed only, or tiles do not divide the image.
    """
    distances = between_seeds(case, TileL2(tiles)).values
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(distances)))
    # NaN, on the diagonal, is below nothing.
    graph.add_edges_from((a, b) for a, b in zip(*(distances < threshold).nonzero(), strict=True))
    _, size = networkx.max_weight_clique(graph, weight=None)
    return xr.DataArray(size, name="clique_size")
