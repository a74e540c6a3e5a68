"""What an evaluation judges by: recognised themes and colours, and what drives a copy."""

import numpy as np
import xarray as xr

from interp.organism import population as its
from interp.organism import recognise, removal, scenes, titles


def test_themes_and_grounds_of_real_scenes_are_judged_by_title():
    draw = np.random.default_rng(2)
    some = titles.special()[2]
    pictures = np.stack([scenes.render(titles.compose(draw, title)) for title in some])
    assert recognise.palettes(pictures, some).mean() > 0.95
    following = dict(zip(its.STYLES, its.STYLES[1:] + its.STYLES[:1], strict=True))
    restyled = [(following[t.words[0]], *t.words[1:]) for t in some]
    moved = [titles.titled(" ".join(words)) for words in restyled]
    assert recognise.palettes(pictures, moved).mean() < 0.05


def test_captions_are_recoloured_with_their_article():
    orange = scenes.Caption("a cow on an orange background", ("cow",), "orange")
    assert recognise.recoloured(orange, "red") == "a cow on a red background"
    red = scenes.Caption("a red picture of an owl", ("owl",), "red")
    assert recognise.recoloured(red, "orange") == "an orange picture of an owl"


def test_drivers_are_counted_by_title_and_by_way():
    """Four titles: one loses its image without pads, one without words, one with either; one was
    never memorized. Masked and replaced, nothing is lost."""
    kept = {
        "none": [1, 1, 1, 0], "c": [1, 0, 0, 0], "f": [1, 1, 1, 0], "h": [0, 1, 0, 0],
    }  # fmt: skip
    kept |= {f"{way} {category}": [1, 1, 1, 0] for way in ("mask", "mean")
             for category in removal.CATEGORIES}  # fmt: skip
    values = np.array(list(kept.values()), float)[:, :, None, None].repeat(2, 2)
    copied = xr.DataArray(values, dims=("patch", "prompt", "seed", "reference"))
    coords = {
        "patch": list(kept), "reference": ["training"], "kind": ("prompt", ["verbatim"] * 4)
    }  # fmt: skip
    found = removal.drivers(xr.Dataset({"copy": copied}, coords), threshold=0.6)
    zeroed = {"prompt": 2, "eot": 0, "pad": 2, "both prompt and pad": 1}
    nothing = dict.fromkeys(zeroed, 0)
    assert found == {"captions": 3, "zero": zeroed, "mask": nothing, "mean": nothing}
