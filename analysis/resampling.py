"""Intervals of means over many values at once: rows of a matrix whose columns are the same pictures, the pictures of a prompt together
or each alone.

A percentile bootstrap says 95 % and covers 0.79 of four normal values, 0.93 of twenty, and less of skewed ones. So below MANY values it
is Student's t, wider where the values are skewed, and below FEWEST there is none."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sweep.records import CONFIDENCE

N_RESAMPLES = 2000

FEWEST = 8
"""Of fewer values a mean has no interval: skewed ones would be covered too seldom by any that is not too wide to say something."""

FEWEST_PICTURES = 2
"""The same of one adapter's pictures: an LPIPS is itself a mean, over all training images, and much less skewed than what trials make of
different configurations."""

MANY = 100
"""From so many values on the percentile bootstrap is as good as any."""

SKEW_POWER, MOST_WIDENED = 0.75, 1.75
"""How much of the skewness that the studentised bootstrap sees widens Student's interval: what covers 0.94 to 0.96 of 8 to 40 normal,
exponential and log-normal (0.5) values at 1.05 to 1.2 times the width that the true variance would give; and by how much at most."""

_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Intervals:
    """Many means with their intervals, each array (m,): as `Interval`, one row each."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def row_intervals(
    values: np.ndarray,
    *,
    clusters: np.ndarray | None = None,
    fewest: int = FEWEST,
    seed: int = 0,
    confidence: float = CONFIDENCE,
    n_resamples: int = N_RESAMPLES,
) -> Intervals:  # values (m, n), clusters (n,)
    """The means of the m rows and their intervals; each row's is what `mean_interval` gives for it, much sooner.

    From MANY values on the percentile bootstrap; below, Student's t, on one side as much wider as the studentised bootstrap (Efron &
    Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5) finds the values skewed; below `fewest` none.
    With `clusters`, one label per column (e.g. the prompt of the picture), the interval covers the choice of these too: Student's t over
    what each cluster adds to the mean, missing below 2 of them. What is not finite is left out."""
    finite = np.isfinite(values)
    n = finite.sum(axis=1)
    mean, low, high = (np.full(len(values), math.nan) for _ in range(3))
    for mask, rows in rows_by_pattern(finite):
        x, own = values[np.ix_(rows, mask)], None if clusters is None else clusters[mask]
        if not x.shape[1]:
            continue
        mean[rows] = x.mean(axis=1)
        if own is not None:
            low[rows], high[rows] = _over_clusters(x, own, confidence=confidence)
        elif x.shape[1] >= fewest:
            interval = _percentile if x.shape[1] >= MANY else _student
            weights = resample_weights(x.shape[1], seed=seed, n_resamples=n_resamples)
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                part = rows[start : start + _ROWS_AT_ONCE]
                low[part], high[part] = interval(x[start : start + _ROWS_AT_ONCE], weights, confidence=confidence)
            same = rows[np.ptp(x, axis=1) == 0]
            low[same] = high[same] = mean[same]
    return Intervals(mean, low, high, n)


def resample_weights(n: int, *, seed: int = 0, n_resamples: int = N_RESAMPLES) -> np.ndarray:  # (n_resamples, n)
    """Rows that add up to 1: `values @ weights.T` are the means of bootstrap resamples, drawn as scipy.stats.bootstrap draws them."""
    drawn = np.random.default_rng(seed).integers(0, n, (n_resamples, n))
    rows = np.arange(n_resamples)[:, None] * n
    return np.bincount((rows + drawn).ravel(), minlength=n_resamples * n).reshape(n_resamples, n) / n


def holm(p: ArrayLike) -> np.ndarray:  # (m,) -> (m,)
    """p-values corrected for m comparisons: below 0.05 for any with probability 0.05 at most where none differs (Holm 1979, Scand. J.
    Statist. 6:65). Missing ones stay missing and count for nothing."""
    p = np.asarray(p, dtype=float)
    corrected, known = np.full(len(p), math.nan), np.flatnonzero(np.isfinite(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected


def rows_by_pattern(finite: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(columns, rows) for each pattern of finite values in a matrix: nearly always a single one."""
    if finite.size == 0:
        return []
    if finite.all():
        return [(np.ones(finite.shape[1], dtype=bool), np.arange(len(finite)))]
    masks, which = np.unique(finite, axis=0, return_inverse=True)
    return [(mask, np.flatnonzero(which == i)) for i, mask in enumerate(masks)]


def _percentile(x: np.ndarray, weights: np.ndarray, *, confidence: float) -> np.ndarray:  # x (m, n), weights (b, n) -> (2, m)
    return np.percentile(x @ weights.T, [50 * (1 - confidence), 50 * (1 + confidence)], axis=1, overwrite_input=True)


def _student(x: np.ndarray, weights: np.ndarray, *, confidence: float) -> np.ndarray:  # x (m, n), weights (b, n) -> (2, m)
    """Student's interval, wider on the side on which the studentised means of resamples reach further."""
    from scipy.stats import t  # 1.3 s

    n = x.shape[1]
    mean, error = x.mean(axis=1), x.std(axis=1, ddof=1) / math.sqrt(n)
    deviations = x - mean[:, None]
    means = deviations @ weights.T
    errors = np.sqrt(np.maximum(0, (deviations**2) @ weights.T - means**2) / (n - 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = np.nan_to_num(means / errors, nan=0.0)  # a resample of one value alone says nothing
    left, right = np.percentile(studentised, [50 * (1 - confidence), 50 * (1 + confidence)], axis=1, overwrite_input=True)
    left, right = np.clip(-left, 1e-9, 1e9), np.clip(right, 1e-9, 1e9)
    skew = (left / right) ** SKEW_POWER  # above 1: the mean lies more often below what it estimates than above
    half = t.ppf((1 + confidence) / 2, n - 1) * error
    return np.stack([mean - np.clip(1 / skew, 1, MOST_WIDENED) * half, mean + np.clip(skew, 1, MOST_WIDENED) * half])


def _over_clusters(x: np.ndarray, clusters: np.ndarray, *, confidence: float) -> np.ndarray:  # x (m, n), clusters (n,) -> (2, m)
    from scipy.stats import t

    _, cluster, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    k, n = len(sizes), x.shape[1]
    if k < 2:
        return np.full((2, len(x)), math.nan)
    belongs = np.zeros((n, k))
    belongs[np.arange(n), cluster] = 1
    mean = x.mean(axis=1)
    shares = (x - mean[:, None]) @ belongs * k / n  # of equal clusters, their means less that of all
    half = t.ppf((1 + confidence) / 2, k - 1) * np.sqrt((shares**2).sum(axis=1) / (k - 1) / k)
    return np.stack([mean - half, mean + half])
