"""How far training seeds scatter: the classical tests where they apply, coverage by simulation,
trials that are judged alone."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from sweep.seed_scatter import Component, SeedScatter, half_width, p_value

RNG = np.random.default_rng


def test_one_trial_has_students_interval_over_its_seeds_and_two_have_the_paired_t_test():
    x = RNG(0).normal(size=(2, 5))
    assert half_width(SeedScatter(x[:1]).of_means())[0] == pytest.approx(
        t.ppf(0.975, 4) * x[0].std(ddof=1) / 5**0.5
    )
    parts, theirs = SeedScatter(x).of_differences(1), ttest_rel(x[0], x[1])
    difference = x.mean(axis=1) - x[1].mean()
    assert (
        p_value(difference, parts)[0] == pytest.approx(theirs.pvalue)
        and p_value(difference, parts)[1] == 1
    )
    assert 2 * half_width(parts)[0] == pytest.approx(np.ptp(theirs.confidence_interval()))


def test_differences_of_many_trials_have_the_residual_of_trials_and_seeds():
    x = RNG(1).normal(size=(6, 3)) + 10 * RNG(2).normal(
        size=(1, 3)
    )  # what a seed does to all cancels
    left = x - x.mean(axis=1, keepdims=True) - x.mean(axis=0) + x.mean()
    expected = t.ppf(0.975, 10) * np.sqrt(2 * (left**2).sum() / 10 / 3)
    assert half_width(SeedScatter(x).of_differences(2)) == pytest.approx(
        [expected] * 2 + [0] + [expected] * 3
    )


def test_one_seed_and_what_was_not_trained_have_no_scatter():
    assert not half_width(SeedScatter(RNG(0).normal(size=(4, 1))).of_means()).any()
    x = RNG(0).normal(size=(5, 3))
    x[4] = np.nan
    means, to_control = (
        half_width(SeedScatter(x).of_means()),
        half_width(SeedScatter(x).of_differences(4)),
    )
    assert means[4] == 0 and to_control[:4] == pytest.approx(means[:4]) and (means[:4] > 0).all()
    x[3, 1:] = np.nan  # one seed of three: the others tell what it may be off by
    assert half_width(SeedScatter(x).of_means())[3] == pytest.approx(
        3**0.5 * half_width(SeedScatter(x).of_means())[0]
    )


def test_a_trial_that_scatters_far_more_than_the_others_is_judged_by_its_own_seeds_alone():
    x = RNG(3).normal(size=(8, 3))
    without = half_width(SeedScatter(x[:7]).of_means())
    x[7] *= 1000
    found = half_width(SeedScatter(x).of_means())
    assert found[:7] == pytest.approx(without) and found[7] == pytest.approx(
        t.ppf(0.975, 2) * x[7].std(ddof=1) / 3**0.5
    )
    to_it = half_width(SeedScatter(x).of_differences(0))
    assert (
        to_it[7] == pytest.approx(t.ppf(0.975, 2) * (x[7] - x[0]).std(ddof=1) / 3**0.5)
        and (to_it[1:7] < 10).all()
    )


def test_trials_of_one_training_say_a_thing_once():
    x = RNG(4).normal(size=(4, 3))
    twice, labels = np.repeat(x, 3, axis=0), np.repeat(list("abcd"), 3)
    assert half_width(SeedScatter(twice, labels).of_means()) == pytest.approx(
        np.repeat(half_width(SeedScatter(x).of_means()), 3)
    )
    pairs = half_width(SeedScatter(twice, labels).of_differences(0))
    assert pairs[3:] == pytest.approx(
        half_width(SeedScatter(x).of_differences(0))[[1] * 3 + [2] * 3 + [3] * 3]
    )


def test_p_is_where_the_interval_begins_to_hold_0_and_without_spread_it_is_0_or_1():
    parts = [
        Component(np.array([1.0, 2.0, 0.0, 0.0]), np.array([1.0, 5, 3, 3])),
        Component(np.array([2.0, 0.1, 0.0, 0.0]), np.array([7.0, 50, 9, 9])),
    ]
    for confidence in (0.2, 0.95, 0.9999):
        p = p_value(half_width(parts, confidence=confidence), parts)
        assert p[:2] == pytest.approx([1 - confidence] * 2, rel=1e-6)
    assert p_value(np.array([1.0, 1.0, 0.0, 0.1]), parts)[2:].tolist() == [1, 0]
    assert np.isnan(p_value(np.array([np.nan, 1, 1, 1]), parts)[0])


@pytest.mark.parametrize("shares", [(1, 0), (0.9, 0.1), (0.5, 0.5), (0.1, 0.9)])
def test_an_interval_of_two_parts_covers_what_it_says_whichever_is_large(shares):
    rng, freedom = RNG(5), (1, 19)
    parts = [
        Component(share * rng.chisquare(f, 20_000) / f, np.full(20_000, f))
        for share, f in zip(shares, freedom)
    ]
    estimate = rng.normal(size=20_000) * sum(shares) ** 0.5
    assert np.mean(np.abs(estimate) <= half_width(parts)) >= 0.95 - 2 * 0.0015
    assert np.mean(p_value(estimate, parts) <= 0.05) <= 0.05 + 2 * 0.0015


@pytest.mark.parametrize("common", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_means_over_seeds_are_covered_also_where_a_seed_moves_all_trials_alike(n_seeds, common):
    rng, covered, widths = RNG(n_seeds), [], []
    for _ in range(400):
        x = rng.normal(size=(16, n_seeds)) + common * rng.normal(size=(1, n_seeds))
        half = half_width(SeedScatter(x).of_means())
        covered.append(np.mean(np.abs(x.mean(axis=1)) <= half))
        widths.append(half.mean())
    assert np.mean(covered) >= 0.95 - 2 * np.std(covered) / 20
    if not common:
        assert np.mean(widths) <= 1.25 * t.ppf(0.975, 16 * (n_seeds - 1)) / n_seeds**0.5
