"""Resampling of rows: the same as one by one, coverage by simulation, corrections by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.resampling import holm, resample_weights, row_intervals
from analysis.stats import mean_interval


def test_many_intervals_at_once_are_those_of_each():
    values = np.random.default_rng(3).normal(size=(5, 12))
    values[1, 3], values[2, 1:], values[3], values[4] = np.nan, np.nan, np.nan, 0.5
    found = row_intervals(values, seed=7)
    for i, row in enumerate(values):
        one = mean_interval(row, seed=7)
        assert (found.mean[i], found.low[i], found.high[i], found.n[i]) == pytest.approx((one.mean, one.low, one.high, one.n), nan_ok=True)


def test_resampling_prompts_covers_new_prompts_and_resampling_pictures_does_not():
    rng, clusters, covered = np.random.default_rng(4), np.repeat(np.arange(20), 4), []
    values = np.repeat(rng.normal(size=(200, 20)), 4, axis=1) + rng.normal(size=(200, 80))  # the true mean is 0
    for own in (clusters, None):
        found = row_intervals(values, clusters=own, n_resamples=500)
        covered.append(np.mean((found.low <= 0) & (found.high >= 0)))
    assert covered[0] >= 0.9 and covered[1] < 0.85
    assert np.isnan(row_intervals(values[:, :4], clusters=clusters[:4]).low).all()


def test_weights_of_resamples_add_up_to_1_and_draw_whole_clusters():
    clusters = np.array([0, 1, 1, 1])
    weights = resample_weights(4, clusters=clusters, seed=1, n_resamples=400)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert set(weights[:, 0]) == {0, 0.25, 1}  # drawn never, once beside the three, twice
    assert (weights[:, 0] == 1).mean() == pytest.approx(0.25, abs=0.08)  # both draws fell on the cluster of one


def test_holm_corrects_as_by_hand_and_ignores_what_is_missing():
    assert holm([0.01, math.nan, 0.04, 0.03]) == pytest.approx([0.03, math.nan, 0.06, 0.06], nan_ok=True)
    assert holm([0.6, 0.7]) == pytest.approx([1, 1]) and len(holm([])) == 0
