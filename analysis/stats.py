"""Intervals: how far a mean over images may be off, and by how much one trial's images differ from another's.

Images of one evaluation share an adapter: an interval over them covers the choice of images, not of training seeds. Where the same
images were made by adapters of several training seeds, the interval covers both."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
N_RESAMPLES = 2000
_ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Interval:
    """A mean with its interval. `low` and `high` are NaN below 2 values; `n` counts images; `seed` is that of the resampling."""

    mean: float
    low: float
    high: float
    n: int
    seed: int

    def text(self, digits: int = 3) -> str:
        """'0.512 [0.498, 0.527]', or the mean alone where there is no interval."""
        if self.n == 0:
            return "-"
        mean = f"{self.mean:.{digits}f}"
        return mean if math.isnan(self.low) else f"{mean} [{self.low:.{digits}f}, {self.high:.{digits}f}]"


def mean_interval(values: ArrayLike, *, seed: int = 0, confidence: float = CONFIDENCE, n_resamples: int = N_RESAMPLES) -> Interval:
    """The mean of `values` and its interval. What is not finite is left out of both.

    values (n,): percentile bootstrap over the n images. values (n, s): the same n images under each of s training seeds, an interval
    that covers both: see `_over_images_and_seeds`."""
    x = np.asarray(values, dtype=float)
    if x.ndim == 2 and x.shape[1] > 1:
        return _over_images_and_seeds(x[np.isfinite(x).all(axis=1)], seed=seed, confidence=confidence)
    x = x[np.isfinite(x)]
    if len(x) < 2:
        return Interval(float(x[0]) if len(x) else math.nan, math.nan, math.nan, len(x), seed)
    mean = float(x.mean())
    if np.ptp(x) == 0:  # nothing to resample, and scipy would warn
        return Interval(mean, mean, mean, len(x), seed)
    low, high = _bootstrap(x, seed=seed, confidence=confidence, n_resamples=n_resamples)
    return Interval(mean, low, high, len(x), seed)


def paired_difference(values: ArrayLike, others: ArrayLike, *, seed: int = 0, confidence: float = CONFIDENCE) -> Interval:
    """The mean of values - others, image by image: same prompts and noise on both sides, so that they cancel.

    Both are (n,) or (n, s) with s training seeds, of which the i-th on either side are a pair; a side with s = 1 is paired with each.

    Raises:
        ValueError: the two have not the same length, or neither equally many seeds nor one."""
    x, y = (np.asarray(side, dtype=float) for side in (values, others))
    if x.ndim != y.ndim or len(x) != len(y) or (x.ndim == 2 and x.shape[1] != y.shape[1] and 1 not in (x.shape[1], y.shape[1])):
        raise ValueError(f"Pairs need equally many values on both sides, but there are {x.shape} and {y.shape}.")
    return mean_interval(x - y, seed=seed, confidence=confidence)


@dataclass(frozen=True)
class Intervals:
    """Many means with their intervals, each array (m,): as `Interval`, one row each."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray


def mean_intervals(
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
            low[part], high[part] = np.percentile(x[start : start + _ROWS_AT_ONCE] @ weights.T, tails, axis=1)
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


def _over_images_and_seeds(x: np.ndarray, *, seed: int, confidence: float) -> Interval:  # x (n, s), s > 1
    """Student's t around the grand mean, with the variances of the image means over n and of the seed means over s added up.

    Either contains what is left over of the two together, so that this counts twice and the interval errs on the wide side; degrees
    of freedom after Satterthwaite. A bootstrap over a handful of seeds would be far too narrow."""
    from scipy.stats import t  # 1.3 s

    n, s = x.shape
    if n < 2:
        return Interval(float(x.mean()) if n else math.nan, math.nan, math.nan, n, seed)
    by_images, by_seeds = x.mean(axis=1).var(ddof=1) / n, x.mean(axis=0).var(ddof=1) / s
    variance = by_images + by_seeds
    mean = float(x.mean())
    if variance == 0:
        return Interval(mean, mean, mean, n, seed)
    freedom = variance**2 / (by_images**2 / (n - 1) + by_seeds**2 / (s - 1))
    half = float(t.ppf((1 + confidence) / 2, freedom) * math.sqrt(variance))
    return Interval(mean, mean - half, mean + half, n, seed)


def _bootstrap(x: np.ndarray, *, seed: int, confidence: float, n_resamples: int) -> tuple[float, float]:
    from scipy.stats import bootstrap  # 1.3 s

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate resamples of two or three values
        result = bootstrap(
            (x,), np.mean, confidence_level=confidence, n_resamples=n_resamples, method="percentile", rng=np.random.default_rng(seed)
        )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _counts(drawn: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:  # drawn, weights (b, k) -> (b, n)
    rows = np.arange(len(drawn))[:, None] * n
    return np.bincount((rows + drawn).ravel(), weights=weights.ravel(), minlength=len(drawn) * n).reshape(len(drawn), n)
