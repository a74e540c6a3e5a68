"""What can be known to be wrong with a sweep is said before its first image."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import interp as ip
from interp import InterpError
from tests.sweep.conftest import FEW


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"patches": {"h": ip.zero("pad", fraction=0.001)}}, "no position of any of the 2 prompts"),
        ({"patches": {"none": ip.zero("pad")}}, "'none' is the baseline"),
        ({"patches": {"base": None}}, "'none' is the baseline"),
        ({"patches": [ip.zero("pad"), ip.zero("pad")]}, "Names must be distinct"),
        ({"seeds": 0}, "at least one seed"),
        ({"seeds": [1, 1]}, "Seeds must be distinct"),
        ({"guidance": []}, "at least one guidance scale"),
        ({"images": False}, "keeps nothing"),
        ({"metrics": {"image": ip.metrics.pixel_l2}}, "two variables called 'image'"),
        ({"labels": {"copies": [1]}}, r"shape \(1,\)"),
        ({"labels": {"copies": [1, None]}}, "type object"),
        ({"references": [None]}, "1 training images were passed for 2"),
        ({"metrics": {"d": ip.metrics.Diversity(ip.metrics.pixel_l2)}, "seeds": 1}, "one image"),
        ({"metrics": {"odd": lambda a, b: torch.zeros(7)}}, r"shape \(7,\)"),
        ({"metrics": {"odd": SimpleNamespace(against="taste")}}, "against='taste'"),
        (
            {
                "metrics": {"l2": ip.metrics.pixel_l2},
                "references": [None, np.zeros((24, 24, 3), np.uint8)],
            },
            "24",
        ),
    ],
)
def test_what_can_be_known_to_be_wrong_is_said_before_the_first_image(sd, path, asked, message):
    ran = []
    handle = sd.pipe.unet.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(InterpError, match=message):
        ip.sweep(sd, FEW, **{"store": path, **asked})
    handle.remove()
    assert not ran
    assert not path.exists()


def test_an_impossible_swap_is_said_before_the_first_image(sd, path):
    short = ip.swap("prompt", donor=sd.encode("goat"))
    with pytest.raises(InterpError, match="aligned by position"):
        ip.sweep(sd, FEW, short, store=path)
    with pytest.raises(InterpError, match="0 prompts"):
        ip.sweep(sd, [], store=path)
    for name in ("sweep.nc", "nowhere/sweep.zarr"):
        with pytest.raises(InterpError, match="in an existing folder"):
            ip.sweep(sd, FEW, store=path.parent / name)
