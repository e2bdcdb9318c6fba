"""Intervals: how far a mean over images may be off, and by how much one trial's images differ from another's.

Images of one evaluation share an adapter: these intervals cover the choice of images, not of training seeds."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
N_RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval. `low` and `high` are NaN below 2 values; `seed` is that of the resampling."""

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
    """The mean of `values` (n,) and its percentile bootstrap interval. What is not finite is left out of both."""
    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    if len(x) < 2:
        return Interval(float(x[0]) if len(x) else math.nan, math.nan, math.nan, len(x), seed)
    mean = float(x.mean())
    if np.ptp(x) == 0:  # nothing to resample, and scipy would warn
        return Interval(mean, mean, mean, len(x), seed)
    low, high = _bootstrap(x, seed=seed, confidence=confidence, n_resamples=n_resamples)
    return Interval(mean, low, high, len(x), seed)


def paired_difference(values: ArrayLike, others: ArrayLike, *, seed: int = 0, confidence: float = CONFIDENCE) -> Interval:
    """The mean of values - others (n,), image by image: same prompts and seeds on both sides, so that they cancel.

    Raises:
        ValueError: the two have not the same length."""
    x, y = np.asarray(values, dtype=float), np.asarray(others, dtype=float)
    if x.shape != y.shape:
        raise ValueError(f"Pairs need equally many values on both sides, but there are {x.shape} and {y.shape}.")
    return mean_interval(x - y, seed=seed, confidence=confidence)


def _bootstrap(x: np.ndarray, *, seed: int, confidence: float, n_resamples: int) -> tuple[float, float]:
    from scipy.stats import bootstrap  # 1.3 s

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate resamples of two or three values
        result = bootstrap(
            (x,), np.mean, confidence_level=confidence, n_resamples=n_resamples, method="percentile", rng=np.random.default_rng(seed)
        )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
