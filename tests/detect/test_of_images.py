"""Detectors that compare the images of several seeds, against all pairs and all subsets."""

from itertools import combinations

import numpy as np
import pytest
import torch
import xarray as xr

import interp as ip
from interp.detect import Case, clique_size, seed_likeness
from interp.errors import InterpError
from interp.metrics import SSIM, Diversity, pixel_l2
from tests.runs import TEXTS


class Given(Case):
    """A case with given images, which is all that these detectors look at."""

    def __init__(self, images):
        dims = ("seed", "pixel_y", "pixel_x", "rgb")
        self.seeds, self.images = tuple(range(len(images))), xr.DataArray(images, dims=dims)


def test_seed_likeness_is_diversity_by_seed(sd1):
    sd = ip.Session(sd1, steps=3)
    case = Case(sd, TEXTS[0], seeds=[3, 1, 2])
    stock = [
        sd1(TEXTS[0], num_inference_steps=3, generator=torch.Generator().manual_seed(seed)).images[
            0
        ]
        for seed in (3, 1, 2)
    ]
    for metric, sign in ((SSIM(), 1), (pixel_l2, -1)):
        found = seed_likeness(case, metric)
        assert found.seed.values.tolist() == [3, 1, 2]
        expected = float(Diversity(metric, "mean")(stock)[0])
        assert float(found.mean()) == pytest.approx(sign * expected, rel=1e-3)
        to_others = [float(metric([stock[0]], [other])[0]) for other in stock[1:]]
        assert float(found[0]) == pytest.approx(sign * np.mean(to_others), rel=1e-3)
    assert float(seed_likeness(case).mean()) == float(seed_likeness(case, SSIM()).mean())


@pytest.mark.parametrize("seed", range(6))
def test_the_clique_is_the_largest_subset_of_which_all_are_near(seed):
    rng = np.random.default_rng(seed)
    # Tiles of grey levels, so that some images are near in some tiles only.
    levels = rng.choice([0.0, 0.1, 0.2, 0.9], size=(7, 2, 2), p=[0.5, 0.2, 0.2, 0.1])
    images = np.kron(levels, np.ones((1, 4, 4)))[..., None].repeat(3, -1)
    far = abs(levels[:, None] - levels).max((-1, -2))
    largest = max(
        len(some)
        for size in range(1, 8)
        for some in combinations(range(7), size)
        if all(far[a, b] < 0.15 for a, b in combinations(some, 2))
    )
    assert clique_size(Given(images), 0.15, tiles=2).item() == largest
    assert clique_size(Given(images), 1.1, tiles=2).item() == 7
    assert clique_size(Given(images + 0.01 * np.arange(7)[:, None, None, None]), 1e-4).item() == 1


def test_a_shared_background_is_no_clique():
    images = np.zeros((4, 16, 16, 3))
    for n in range(4):
        images[n, 4 * n : 4 * n + 4, 4 * n : 4 * n + 4] = 0.5
    assert float(pixel_l2.pairwise(torch.tensor(images).permute(0, 3, 1, 2)).max()) > 0.15
    assert clique_size(Given(images)).item() == 1
    assert clique_size(Given(images), tiles=1, threshold=0.2).item() == 4


def test_one_seed_has_no_other(sd1):
    case = Case(ip.Session(sd1, steps=2), TEXTS[0], seeds=1)
    for detector in (seed_likeness, clique_size):
        with pytest.raises(InterpError, match="one seed, 0"):
            detector(case)
