"""The benchmark runs, and what recording keeps does not grow with the image."""

import numpy as np

from analyses.benchmark import Size, main, variants
from interp import encode, results
from tests.conftest import hook_count


def test_no_variant_changes_what_the_next_one_is_timed_on(sd1):
    hooks, stock = hook_count(sd1), [type(p) for p in sd1.unet.attn_processors.values()]
    timed = variants(sd1, encode(sd1, "goat")[0])
    for name, around in timed.items():
        with around():
            inside = [type(p) for p in sd1.unet.attn_processors.values()]
        assert (inside == stock) == (name != "eager processor")
        assert [type(p) for p in sd1.unet.attn_processors.values()] == stock, name
        assert hook_count(sd1) == hooks, name


def test_kept_memory_is_independent_of_resolution(tmp_path):
    data = main(Size.embedded, tmp_path, steps=1, repeats=1)
    kept, half = data.kept.to_series(), data.kept_half.to_series()
    assert kept["record mass"] == half["record mass"] > 0
    assert kept["record mass"] == 2 * kept["record mass, conditional rows"]
    assert kept["record and keep full maps"] == 4 * half["record and keep full maps"]
    assert data.ratio.sel(variant="stock").item() == 1
    assert np.isfinite(data.ratio).all()
    assert {path.suffix for path in tmp_path.iterdir()} == {".nc", ".csv", ".md", ".pdf", ".png"}
    assert results.provenance(results.open(tmp_path / "embedded.nc"))["steps"] == 1
