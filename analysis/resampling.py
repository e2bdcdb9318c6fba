"""Resampling of many trials at once: rows of a matrix whose columns are the same pictures, the pictures of a prompt together or each alone.

Intervals of sets that have nothing in common are analysis/stats.py's, which resamples equally long ones together by this."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
N_RESAMPLES = 2000
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Intervals:
    """Many means with their intervals, each array (m,): as `Interval`, one row each."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def row_intervals(
    values: np.ndarray, *, clusters: np.ndarray | None = None, seed: int = 0, confidence: float = CONFIDENCE, n_resamples: int = N_RESAMPLES
) -> Intervals:  # values (m, n), clusters (n,)
    """The means of the m rows and their percentile bootstrap intervals; each row's is what `mean_interval` gives for it, much sooner.

    With `clusters`, one label per column (e.g. the prompt of the picture), resampling is in two stages, clusters, then values within them
    (Davison & Hinkley, Bootstrap Methods and their Application, 1997, section 3.8): the interval covers the choice of prompts too, and is
    missing below 2 of them. A handful of clusters still makes it too narrow. What is not finite is left out."""
    finite = np.isfinite(values)
    n = finite.sum(axis=1)
    mean, low, high = (np.full(len(values), math.nan) for _ in range(3))
    for mask, rows in rows_by_pattern(finite):
        x, own = values[np.ix_(rows, mask)], None if clusters is None else clusters[mask]
        if x.shape[1]:
            mean[rows] = x.mean(axis=1)
        if x.shape[1] < 2 or (own is not None and len(np.unique(own)) < 2):
            continue
        weights = resample_weights(x.shape[1], clusters=own, seed=seed, n_resamples=n_resamples)
        tails = [50 * (1 - confidence), 50 * (1 + confidence)]
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            part = rows[start : start + _ROWS_AT_ONCE]
            low[part], high[part] = np.percentile(x[start : start + _ROWS_AT_ONCE] @ weights.T, tails, axis=1, overwrite_input=True)
        same = rows[np.ptp(x, axis=1) == 0]
        low[same] = high[same] = mean[same]
    return Intervals(mean, low, high, n)


def resample_weights(n: int, *, clusters: np.ndarray | None = None, seed: int = 0, n_resamples: int = N_RESAMPLES) -> np.ndarray:  # (n_resamples, n)
    """Rows that add up to 1: `values @ weights.T` are the means of bootstrap resamples, of the clusters first where there are some."""
    rng = np.random.default_rng(seed)
    if clusters is None:
        drawn = rng.integers(0, n, (n_resamples, n))  # as scipy.stats.bootstrap draws them
        return _counts(drawn, np.ones_like(drawn), n) / n
    _, cluster = np.unique(clusters, return_inverse=True)
    order, sizes = np.argsort(cluster, kind="stable"), np.bincount(cluster)
    chosen = rng.integers(0, len(sizes), (n_resamples, len(sizes)))
    within = np.arange(sizes.max())
    places = (rng.random((*chosen.shape, len(within))) * sizes[chosen][..., None]).astype(int)
    drawn = order[(np.cumsum(sizes) - sizes)[chosen][..., None] + places]
    is_drawn = within < sizes[chosen][..., None]
    counts = _counts(drawn.reshape(n_resamples, -1), is_drawn.reshape(n_resamples, -1), n)
    return counts / counts.sum(axis=1, keepdims=True)


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


def _counts(drawn: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:  # drawn, weights (b, k) -> (b, n)
    rows = np.arange(len(drawn))[:, None] * n
    return np.bincount((rows + drawn).ravel(), weights=weights.ravel(), minlength=len(drawn) * n).reshape(len(drawn), n)
