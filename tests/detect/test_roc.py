"""Thresholds and ROC curves, against scikit-learn, brute force, theory and known truth."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from interp.detect import calibrate, roc
from interp.errors import InterpError
from interp.results import intervals

FPRS = (0.0, 0.01, 0.05, 0.07, 0.29, 0.5, 0.99)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 19, 100])
@pytest.mark.parametrize("values", [3, 1000])
def test_calibration_is_the_best_allowed_threshold(rng, size, values):
    """Against every threshold there is; few distinct values make ties."""
    control = rng.integers(values, size=size).astype(float)
    memorized = rng.integers(values, size=50) + values / 2
    for fpr in FPRS:
        threshold = calibrate(control, fpr)
        assert (control > threshold).mean() <= fpr
        candidates = np.unique(np.concatenate([control, memorized, [-1.0]]))
        allowed = [t for t in candidates if (control > t).mean() <= fpr]
        best = max((memorized > t).mean() for t in allowed)
        assert (memorized > threshold).mean() == best


def test_calibration_counts_as_a_person_would():
    hundred = np.arange(100.0)
    assert calibrate(hundred, 0.29) == 70  # 71 .. 99 are 29 scores
    assert calibrate(hundred.reshape(20, 5), 0.0) == 99
    assert calibrate(np.ones(10), 0.5) == 1  # all or none


@pytest.mark.parametrize(
    ("control", "fpr"), [([], 0.01), ([1.0, np.nan], 0.01), ([1.0], 1.0), ([1.0], -0.1)]
)
def test_calibration_refuses(control, fpr):
    with pytest.raises(InterpError, match="false positive rate"):
        calibrate(control, fpr)


def test_the_area_is_sklearns(rng):
    for ties in (False, True):
        memorized, control = rng.normal(1, 1, (40, 3)), rng.normal(0, 1, (60, 3))
        if ties:
            memorized, control = memorized.round(), control.round()
        curve = roc(memorized, control, resamples=20)
        truth = np.r_[np.ones(120), np.zeros(180)]
        expected = roc_auc_score(truth, np.r_[memorized.ravel(), control.ravel()])
        assert float(curve.auc) == pytest.approx(expected, abs=1e-12)


def test_every_point_is_what_its_threshold_gives(rng):
    memorized, control = rng.normal(1, 1, 80).round(1), rng.normal(0, 1, 90).round(1)
    curve = roc(memorized, control, resamples=2).sel(fpr=slice(0, 0.99))
    for fpr, tpr, threshold in zip(curve.fpr, curve.tpr, curve.threshold, strict=True):
        assert (control > threshold.item()).mean() <= fpr
        assert (memorized > threshold.item()).mean() == pytest.approx(tpr.item())
    assert curve.tpr.sel(fpr=0.01).dims == ()


def test_intervals_are_those_of_theory_where_prompts_are_independent(rng):
    """Hanley and McNeil's standard error of the area, for normal scores."""
    memorized, control = rng.normal(1, 1, 300), rng.normal(0, 1, 300)
    curve = roc(memorized, control, resamples=200)
    area = norm.cdf(1 / np.sqrt(2))
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + 299 * (q1 - area**2) + 299 * (q2 - area**2)
    width = 2 * 1.96 * np.sqrt(variance) / 300
    assert float(curve.auc_high - curve.auc_low) == pytest.approx(width, rel=0.2)


def clustered(rng, images=30, prompts=6):
    """Memorized scores, N(1, 1), of which half the variance is the image's; and their images."""
    shared = rng.normal(0, np.sqrt(0.5), (images, 1))
    own = rng.normal(0, np.sqrt(0.5), (images, prompts))
    return (1 + shared + own).ravel(), np.repeat(np.arange(images), prompts)


def areas(memorized, control, groups, resamples, seed):
    """The area of every resample as the weighted share of pairs in order (Mann and Whitney)."""
    seeds = np.random.SeedSequence(seed).spawn(2)
    above = (memorized[:, None] > control).astype(float)
    a = intervals.resample(groups, resamples, seeds[0])
    b = intervals.resample(range(len(control)), resamples, seeds[1])
    return ((a @ above) * b).sum(1) / (a.sum(1) * b.sum(1))


def test_intervals_are_those_of_pairs_in_order(rng):
    memorized, images = clustered(rng)
    control = rng.normal(0, 1, 100)
    curve = roc(memorized, control, images, resamples=40, seed=7)
    drawn = areas(memorized, control, images.tolist(), 40, 7)
    expected = np.quantile(drawn, [0.025, 0.975])
    np.testing.assert_allclose([curve.auc_low, curve.auc_high], expected, rtol=1e-12)


def test_intervals_by_image_cover_the_truth_and_others_do_not(rng):
    truth = norm.cdf(1 / np.sqrt(2))
    covered = {"image": 0, "prompt": 0}
    for seed in range(200):
        memorized, images = clustered(rng)
        control = rng.normal(0, 1, 400)
        for name, groups in (("image", images.tolist()), ("prompt", range(len(images)))):
            ends = np.quantile(areas(memorized, control, groups, 100, seed), [0.025, 0.975])
            covered[name] += ends[0] <= truth <= ends[1]
    assert 0.9 < covered["image"] / 200 < 0.985
    assert covered["prompt"] / 200 < 0.85


def test_seeds_of_a_prompt_are_drawn_together(rng):
    """Every seed repeated is no more evidence than one."""
    memorized, control = rng.normal(1, 1, (50, 1)), rng.normal(0, 1, (50, 1))
    once = roc(memorized, control, resamples=50)
    often = roc(np.repeat(memorized, 4, 1), np.repeat(control, 4, 1), resamples=50)
    xr.testing.assert_allclose(once, often)


def test_the_group_coordinate_is_taken(rng):
    memorized, images = clustered(rng, 8, 3)
    control = rng.normal(0, 1, 40)
    given = roc(memorized, control, images, resamples=30)
    array = xr.DataArray(memorized, dims="prompt", coords={"group": ("prompt", images)})
    xr.testing.assert_identical(given, roc(array, control, resamples=30))
    assert given.attrs["memorized_groups"] == 8
    assert float(given.auc_low) < float(given.auc) < float(given.auc_high)


def test_one_image_gives_no_interval(rng):
    curve = roc(rng.normal(1, 1, 9), rng.normal(0, 1, 9), ["a"] * 9, resamples=5)
    assert np.isnan(curve.auc_low)
    assert np.isfinite(curve.auc)


def test_roc_refuses():
    with pytest.raises(InterpError, match="memorized scores"):
        roc([], [1.0])
    with pytest.raises(InterpError, match="1 of them are NaN"):
        roc([1.0], [np.nan, 1.0])
    with pytest.raises(InterpError, match="one group for each prompt"):
        roc([1.0, 2.0], [0.0], groups=["a"])


def test_resampling_draws_groups_whole():
    drawn = intervals.resample(["a", "b", "a", "c"], 200)
    assert (drawn[:, 0] == drawn[:, 2]).all()
    assert (drawn[:, [0, 1, 3]].sum(1) == 3).all()
    np.testing.assert_allclose(drawn.mean(0), 1, atol=0.2)


def test_the_mean_and_its_interval(rng):
    """Against a loop that draws images, and against theory."""
    values = xr.DataArray(
        rng.normal(0, 1, (2, 40, 5)), dims=("patch", "prompt", "seed"), coords={"patch": ["a", "b"]}
    )
    values[0, 3, 2] = np.nan
    images = np.repeat(np.arange(20), 2)
    found = intervals.mean(values, images, resamples=100, seed=3)
    drawn = intervals.resample(images.tolist(), 100, seed=3).astype(int)
    for patch in range(2):
        means = [np.nanmean(np.repeat(values[patch].values, row, axis=0)) for row in drawn]
        low, high = np.quantile(means, [0.025, 0.975])
        assert found.low[patch] == pytest.approx(low)
        assert found.high[patch] == pytest.approx(high)
        assert found["mean"][patch] == pytest.approx(np.nanmean(values[patch]))
    assert float((found.high - found.low).mean()) == pytest.approx(2 * 1.96 / 200**0.5, rel=0.3)
