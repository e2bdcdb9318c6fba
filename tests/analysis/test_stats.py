"""Intervals of means: cases by hand, coverage by simulation, and the same numbers for the same
seed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import bootstrap, t

from analysis.resampling import FEWEST, row_intervals
from analysis.stats import mean_interval, mean_intervals
from trainables.mean_intervals import MANY

from .simulated import LAWS, draws


def test_the_interval_of_many_draws_is_that_of_the_normal_law():
    x = np.random.default_rng(1).normal(size=400)
    interval = mean_interval(x)
    half_width = 1.96 * x.std(ddof=1) / math.sqrt(len(x))
    assert interval.n == 400 and interval.mean == pytest.approx(x.mean())
    assert interval.low == pytest.approx(x.mean() - half_width, abs=0.012)
    assert interval.high == pytest.approx(x.mean() + half_width, abs=0.012)


def test_the_seed_decides_the_interval_and_nothing_else():
    x = np.random.default_rng(1).exponential(size=20)
    np.random.seed(0)
    first = mean_interval(x, seed=3)
    np.random.seed(1)
    assert mean_interval(x, seed=3) == first != mean_interval(x, seed=4)


def test_too_few_values_have_no_interval():
    assert mean_interval([]).text() == "-" and mean_interval([]).n == 0
    one = mean_interval([0.5, float("nan")])
    assert (one.mean, one.n) == (0.5, 1) and math.isnan(one.low) and one.text() == "0.500"
    x = np.random.default_rng(0).normal(size=FEWEST)
    assert (
        math.isnan(mean_interval(x[1:]).low)
        and mean_interval(x).low < x.mean() < mean_interval(x).high
    )
    assert mean_interval([0.5] * FEWEST).text() == "0.500 [0.500, 0.500]"


def test_a_few_values_that_lie_evenly_have_students_interval_and_skewed_ones_a_longer_side():
    x = np.array([2.0] * 4 + [2.5] * 4)
    half = t.ppf(0.975, 7) * x.std(ddof=1) / 8**0.5
    even = mean_interval(x)
    assert (even.low, even.high) == pytest.approx((2.25 - half, 2.25 + half), rel=0.01)
    skewed = np.array([1.0, 1.1, 1.2, 1.2, 1.3, 1.4, 1.6, 4.0])
    interval, half = mean_interval(skewed), t.ppf(0.975, 7) * skewed.std(ddof=1) / 8**0.5
    assert (
        interval.low == pytest.approx(skewed.mean() - half)
        and interval.high > skewed.mean() + 1.2 * half
    )


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [FEWEST, 12, 16, 20, 40, MANY])
def test_what_is_called_95_percent_covers_as_often_and_is_not_much_wider_than_it_must_be(law, n):
    values = draws(law, (1500, n), np.random.default_rng(n))
    found = row_intervals(values)
    covered = (found.low <= 0) & (found.high >= 0)
    assert covered.mean() >= 0.95 - 2 * covered.std() / len(covered) ** 0.5
    assert (found.high - found.low).mean() <= 1.25 * 2 * t.ppf(0.975, n - 1) / n**0.5
    if n <= 16:  # what was called so before
        percentiles = np.percentile(
            values @ np.random.default_rng(0).multinomial(n, [1 / n] * n, 1000).T / n,
            [2.5, 97.5],
            axis=1,
        )
        assert np.mean((percentiles[0] <= 0) & (percentiles[1] >= 0)) < 0.925


def test_intervals_of_many_sets_are_those_of_each_and_of_scipy_from_a_hundred_values_on():
    rng = np.random.default_rng(3)
    sets = [rng.normal(size=n) for n in (20, 12, 20, 2, 1, 0, MANY)] + [
        np.full(20, 0.1),
        np.append(rng.normal(size=20), np.nan),
    ]
    intervals = mean_intervals(sets, seed=7)
    for together, x in zip(intervals, sets, strict=True):
        assert dataclasses.astuple(together) == pytest.approx(dataclasses.astuple(mean_interval(x, seed=7)), nan_ok=True)
    rng = np.random.default_rng(7)
    theirs = bootstrap(
        (sets[6],), np.mean, n_resamples=2000, method="percentile", rng=rng, vectorized=True
    ).confidence_interval
    assert (intervals[6].low, intervals[6].high) == pytest.approx(
        (theirs.low, theirs.high), abs=1e-12
    )
