"""Intervals: cases by hand, coverage by simulation, and the same numbers for the same seed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import bootstrap

from analysis.stats import mean_interval, mean_intervals, paired_difference


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


def test_an_interval_over_images_and_training_seeds_covers_both():
    rng, covered, images_alone = np.random.default_rng(5), [], []
    for _ in range(400):
        seeds, images = rng.normal(size=(1, 3)), 2 * rng.normal(size=(20, 1))
        values = seeds + images + rng.normal(size=(20, 3))  # the true mean is 0
        interval = mean_interval(values)
        covered.append(interval.low <= 0 <= interval.high)
        x = values[:, 0]
        images_alone.append(abs(x.mean()) <= 2 * x.std(ddof=1) / 20**0.5)
    assert np.mean(covered) >= 0.94 and np.mean(images_alone) < 0.85


def test_seeds_that_agree_leave_the_interval_of_the_images_and_images_that_agree_that_of_the_seeds():
    images = np.random.default_rng(0).normal(size=(30, 1))
    n_seeds = mean_interval(np.repeat(images, 4, axis=1))
    assert (n_seeds.high - n_seeds.low) / 2 == pytest.approx(2.045 * images.std(ddof=1) / 30**0.5, rel=1e-3)  # t at 29 degrees
    seeds = mean_interval(np.repeat([[1.0, 2.0, 3.0]], 30, axis=0))
    assert (seeds.mean, seeds.high) == (2.0, pytest.approx(2 + 4.303 / 3**0.5, rel=1e-3))  # t at 2 degrees


def test_pairs_over_seeds_cancel_what_both_sides_share():
    rng = np.random.default_rng(1)
    seeds, images = rng.normal(size=(1, 3)), rng.normal(size=(20, 1))
    difference = paired_difference(seeds + images + 0.1, seeds + images)
    assert (difference.low, difference.high, difference.n) == (pytest.approx(0.1), pytest.approx(0.1), 20)
    one = paired_difference(images, seeds + images)  # a control has no seeds: it is paired with each
    assert one.mean == pytest.approx(-seeds.mean()) and one.low < one.mean < one.high
    with pytest.raises(ValueError, match="3.*2"):
        paired_difference(np.zeros((20, 3)), np.zeros((20, 2)))


def test_intervals_of_many_sets_are_those_of_each_and_of_scipy():
    rng = np.random.default_rng(3)
    sets = [rng.normal(size=n) for n in (20, 12, 20, 2, 1, 0)] + [rng.normal(size=(20, 3)), np.full(20, 0.1), np.append(rng.normal(size=20), np.nan)]
    intervals = mean_intervals(sets, seed=7)
    for together, x in zip(intervals, sets, strict=True):
        assert dataclasses.astuple(together) == pytest.approx(dataclasses.astuple(mean_interval(x, seed=7)), nan_ok=True)
    for x in sets[:4]:
        rng = np.random.default_rng(7)
        theirs = bootstrap((x,), np.mean, n_resamples=2000, method="percentile", rng=rng, vectorized=True).confidence_interval
        own = mean_interval(x, seed=7)
        assert (own.low, own.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
