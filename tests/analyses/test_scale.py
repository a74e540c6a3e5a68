"""The simulated cluster runs a whole sweep, and its figures are of that sweep."""

import pytest

from analyses.scale import EDITS, PIXEL, SEEDS, main
from interp import results


@pytest.mark.slow
def test_cells_that_sleep_are_shared_out(tmp_path):
    pytest.importorskip("distributed")
    row = main(tmp_path, [3], prompts=7, minutes=0.05).sel(workers=3)
    assert row["seconds a cell"] == 1
    assert row["at best"] == pytest.approx(7 / 9)
    # Three rounds of a second, and what workers wait for besides.
    assert row.seconds > 3
    assert row.efficiency == pytest.approx(7 / (3 * row.seconds))
    assert 0 < row["of which writing"] < 1000 * row.seconds
    said = results.provenance(results.open(tmp_path / "scale.nc"))
    assert said["bytes_a_cell"] == SEEDS * EDITS * PIXEL**2 * 3
    assert "efficiency" in (tmp_path / "scale.md").read_text()
