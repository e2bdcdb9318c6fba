"""Intervals of rows: the same as one by one, coverage of new prompts by simulation, corrections by
hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from analysis.resampling import holm, row_intervals
from analysis.stats import mean_interval
from trainables.mean_intervals import resample_weights


def test_many_intervals_at_once_are_those_of_each():
    values = np.random.default_rng(3).normal(size=(5, 12))
    values[1, 3], values[2, 1:], values[3], values[4] = np.nan, np.nan, np.nan, 0.5
    found = row_intervals(values, seed=7)
    for i, row in enumerate(values):
        one = mean_interval(row, seed=7)
        assert (found.mean[i], found.low[i], found.high[i], found.n[i]) == pytest.approx((one.mean, one.low, one.high, one.n), nan_ok=True)


@pytest.mark.parametrize("n_prompts", [2, 5, 20])
def test_an_interval_over_prompts_covers_new_prompts_and_one_over_pictures_does_not(n_prompts):
    rng, clusters, covered = np.random.default_rng(4), np.repeat(np.arange(n_prompts), 4), []
    values = np.repeat(rng.normal(size=(1000, n_prompts)), 4, axis=1) + rng.normal(
        size=(1000, 4 * n_prompts)
    )  # the true mean is 0
    for own in (clusters, None):
        found = row_intervals(values, clusters=own, n_resamples=500)
        covered.append(np.mean((found.low <= 0) & (found.high >= 0)))
    assert 0.936 <= covered[0] <= 0.97 and covered[1] < 0.85
    assert np.isnan(row_intervals(values[:, :4], clusters=clusters[:4]).low).all()


def test_of_equal_prompts_the_interval_is_students_over_their_means():
    values = np.random.default_rng(0).normal(size=(1, 12))
    means = values.reshape(4, 3).mean(axis=1)
    found = row_intervals(values, clusters=np.repeat(np.arange(4), 3))
    half = t.ppf(0.975, 3) * means.std(ddof=1) / 2
    assert (found.low[0], found.high[0]) == pytest.approx(
        (means.mean() - half, means.mean() + half)
    )


def test_weights_of_resamples_are_the_shares_of_what_was_drawn():
    weights = resample_weights(4, seed=1, n_resamples=400)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert set(weights.ravel()) <= {0, 0.25, 0.5, 0.75, 1} and weights.mean(
        axis=0
    ) == pytest.approx(np.full(4, 0.25), abs=0.03)


def test_holm_corrects_as_by_hand_and_ignores_what_is_missing():
    assert holm([0.01, math.nan, 0.04, 0.03]) == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)
    assert holm([0.6, 0.7]) == pytest.approx([1, 1]) and len(holm([])) == 0
