"""Intervals: coverage by simulation, the classical case by hand, and the same numbers for the same seed."""

import numpy as np
import pytest
import torch
from scipy.stats import t

from tests.trainables.test_metrics import pooled_features
from trainables.intervals import LEAST_IMAGES, MOST_GROUPS, jackknife_interval, mean_interval
from trainables.metrics import FrechetDistances, KernelDistances, frechet_distance, kernel_distance


def test_the_jackknife_of_a_mean_is_students_interval():
    # Left out one by one, a mean's jackknife variance is s^2 / n exactly.
    x = torch.from_numpy(np.random.default_rng(0).normal(size=20))
    low, high = jackknife_interval(lambda rows: x[rows].mean(1), 20)
    half_width = t.ppf(0.975, 19) * float(x.std()) / 20**0.5
    assert (low, high) == pytest.approx((float(x.mean()) - half_width, float(x.mean()) + half_width), rel=1e-9)


def test_many_images_are_left_out_in_groups_drawn_with_the_seed():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=MOST_GROUPS * 3 + 1))
    asked = []
    first = jackknife_interval(lambda rows: (asked.append(rows.shape), x[rows].mean(1))[1], len(x), seed=1)
    assert sorted(asked) == [(1, len(x) - 4), (1, len(x)), (MOST_GROUPS - 1, len(x) - 3)]
    assert first == jackknife_interval(lambda rows: x[rows].mean(1), len(x), seed=1)
    assert first != jackknife_interval(lambda rows: x[rows].mean(1), len(x), seed=2)


@pytest.mark.parametrize(("distances", "distance"), [(FrechetDistances, frechet_distance), (KernelDistances, kernel_distance)])
def test_the_jackknife_covers_what_is_expected_at_this_number_of_images_and_a_bootstrap_of_fid_does_not(distances, distance):
    real, sets = pooled_features(60, 64, seed=0), [pooled_features(20, 64, seed=s, shift=0.3) for s in range(1, 61)]
    expected = np.mean([distance(real, fake) for fake in sets])
    intervals = [
        jackknife_interval(distances(real, fake), 20, is_skewed=distance is frechet_distance)
        for fake in sets
    ]
    covered = np.mean([low <= expected <= high for low, high in intervals])
    assert 0.85 <= covered <= 1  # 95 % of 60 sets, give or take 3 standard deviations
    if distance is frechet_distance:
        draws = np.random.default_rng(0).integers(0, 20, (50, 20))
        resampled = [frechet_distance(real, sets[0][torch.from_numpy(rows)]) for rows in draws]
        assert np.quantile(resampled, 0.025) > expected  # repeats push FID up: why this is not the bootstrap


def test_of_a_few_images_with_heavy_tails_fid_is_covered_and_the_jackknife_alone_does_not():
    def features(n, seed):
        return torch.from_numpy(
            np.random.default_rng(seed).standard_t(4, size=(n, 48)).astype(np.float32)
        )

    real, sets = features(150, 0), [features(16, seed) for seed in range(1, 401)]
    values = np.array([frechet_distance(real, fake) for fake in sets])
    covered, widths = {}, {}
    for is_skewed in (False, True):
        ends = np.array(
            [
                jackknife_interval(FrechetDistances(real, fake), 16, is_skewed=is_skewed)
                for fake in sets
            ]
        )
        covered[is_skewed] = np.mean((ends[:, 0] <= values.mean()) & (values.mean() <= ends[:, 1]))
        widths[is_skewed] = np.mean(np.ptp(ends, axis=1)) / (2 * t.ppf(0.975, 15) * values.std())
    error = (0.95 * 0.05 / 400) ** 0.5
    assert covered[True] >= 0.95 - 2 * error > covered[False] and widths[True] <= 1.25


def test_the_interval_of_a_skewed_distance_is_on_its_logarithms_scale_and_never_below_0():
    x = torch.from_numpy(np.random.default_rng(0).normal(10, 1, size=20))
    linear, skewed = (
        jackknife_interval(lambda rows: x[rows].mean(1), 20, is_skewed=own) for own in (False, True)
    )
    assert skewed == pytest.approx(linear, rel=0.03)
    near_0 = jackknife_interval(
        lambda rows: (x[rows] - x.mean() + 0.01).mean(1), 20, is_skewed=True
    )
    assert 0 < near_0[0] < 0.01 < near_0[1] < 3


def test_the_interval_of_a_mean_is_scipys_seeded_and_deaf_to_missing_values():
    x = np.random.default_rng(1).normal(size=200)
    low, high = mean_interval(x)
    assert (low, high) == pytest.approx((x.mean() - 1.96 * x.std() / 200**0.5, x.mean() + 1.96 * x.std() / 200**0.5), abs=0.02)
    assert mean_interval(np.append(x, np.nan)) == (low, high) != mean_interval(x, seed=1)
    assert mean_interval([0.5] * LEAST_IMAGES) == (0.5, 0.5)


def test_few_images_have_no_interval():
    assert mean_interval([1.0, 2.0, 3.0]) is None
    assert jackknife_interval(lambda rows: pytest.fail("nothing is computed"), LEAST_IMAGES - 1) is None
