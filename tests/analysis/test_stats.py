"""Intervals: cases by hand, coverage by simulation, and the same numbers for the same seed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from analysis.stats import mean_interval, paired_difference


def test_the_interval_of_many_draws_is_that_of_the_normal_law():
    x = np.random.default_rng(1).normal(size=400)
    interval = mean_interval(x)
    half_width = 1.96 * x.std(ddof=1) / math.sqrt(len(x))
    assert interval.n == 400 and interval.mean == pytest.approx(x.mean())
    assert interval.low == pytest.approx(x.mean() - half_width, abs=0.012)
    assert interval.high == pytest.approx(x.mean() + half_width, abs=0.012)


def test_the_seed_decides_the_interval_and_nothing_else():
    x = np.random.default_rng(1).normal(size=20)
    np.random.seed(0)
    first = mean_interval(x, seed=3)
    np.random.seed(1)
    assert mean_interval(x, seed=3) == first != mean_interval(x, seed=4)


def test_too_few_values_have_no_interval():
    assert mean_interval([]).text() == "-" and mean_interval([]).n == 0
    one = mean_interval([0.5, float("nan")])
    assert (one.mean, one.n) == (0.5, 1) and math.isnan(one.low) and one.text() == "0.500"
    assert mean_interval([0.5, 0.5]).text() == "0.500 [0.500, 0.500]"


def test_what_both_sides_share_cancels_in_a_paired_difference():
    noise = np.random.default_rng(2).normal(size=50)
    difference = paired_difference(noise + 0.1, noise)
    assert (difference.low, difference.mean, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert mean_interval(noise).high - mean_interval(noise).low > 0.2
    with pytest.raises(ValueError, match="50.*49"):
        paired_difference(noise, noise[1:])
