"""Intervals of means over many values at once: rows of a matrix whose columns are the same
pictures, the pictures of a prompt together or each alone. How wide they are is
trainables/mean_intervals.py's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sweep.records import CONFIDENCE, N_RESAMPLES, bounds_of_means, resample_weights

FEWEST = 8
"""Of fewer values a mean has no interval: skewed ones would be covered too seldom by any that is
not too wide to say something."""

FEWEST_PICTURES = 2
"""The same of one adapter's pictures: an LPIPS is itself a mean, over all training images, and
much less skewed than what trials make of different configurations."""

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
    """The means of the m rows and their intervals; each row's is what `mean_interval` gives for it,
    much sooner.

    Below `fewest` values there is none; see `bounds_of_means`. With `clusters`, one label per
    column (e.g. the prompt of the picture), the interval covers the choice of these too:
    Student's t over what each cluster adds to the mean, missing below 2 of them. What is not
    finite is left out."""
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
            weights = resample_weights(x.shape[1], seed=seed, n_resamples=n_resamples)
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                part = rows[start : start + _ROWS_AT_ONCE]
                low[part], high[part] = bounds_of_means(
                    x[start : start + _ROWS_AT_ONCE], weights, confidence=confidence
                )
            same = rows[np.ptp(x, axis=1) == 0]
            low[same] = high[same] = mean[same]
    return Intervals(mean, low, high, n)


def holm(p: ArrayLike) -> np.ndarray:  # (m,) -> (m,)
    """p-values corrected for m comparisons: below 0.05 for any with probability 0.05 at most
    where none differs (Holm 1979, Scand. J. Statist. 6:65). Missing ones stay missing and count
    for nothing."""
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


def _over_clusters(
    x: np.ndarray, clusters: np.ndarray, *, confidence: float
) -> np.ndarray:  # x (m, n), clusters (n,) -> (2, m)
    from scipy.stats import t

    _, cluster, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    k, n = len(sizes), x.shape[1]
    if k < 2:
        return np.full((2, len(x)), math.nan)
    belongs = np.zeros((n, k))
    belongs[np.arange(n), cluster] = 1
    mean = x.mean(axis=1)
    shares = (
        (x - mean[:, None]) @ belongs * k / n
    )  # of equal clusters, their means less that of all
    half = t.ppf((1 + confidence) / 2, k - 1) * np.sqrt((shares**2).sum(axis=1) / (k - 1) / k)
    return np.stack([mean - half, mean + half])
