"""The benchmark runs, and what recording keeps does not grow with the image."""

import numpy as np

from analyses import benchmark_maps, startup
from analyses.benchmark import Size, main, variants
from interp import Session, encode, results
from interp.denoiser.layers import sites
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


def test_the_counted_plain_map_is_every_cell_by_itself(sd1):
    sd = Session(sd1, steps=2)
    both, maps = benchmark_maps.causal_maps(sd, "goat", "a red cat")
    patches = len(benchmark_maps.PATCHED)
    cells = len(sites(sd1.unet)) * 2 * patches
    naive = maps["UNet rows"].iloc[0]
    assert naive == (cells + patches + 1) * 2 * 2  # cells, patched everywhere, clean: guided steps
    assert (maps["rows, times fewer"] * maps["UNet rows"] == naive).all()
    assert (maps["UNet rows"].iloc[1:] < naive).all()
    assert -1 <= maps["rank correlation with exact"].iloc[2] == both.spearman.item() <= 1


def test_help_and_import_cost_less_than_the_libraries():
    medians = startup.main(repeats=1)["times the bare libraries"]
    assert medians["import interp"] < 0.5
    assert medians["interp --help"] < 0.5
