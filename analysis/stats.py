"""Intervals: how far a mean over images may be off, and by how much one trial's images differ from another's.

Images of one evaluation share an adapter: an interval over them covers the choice of images, not of training seeds. Where the same
images were made by adapters of several training seeds, the interval covers both."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.resampling import CONFIDENCE, N_RESAMPLES, row_intervals


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
    return mean_intervals([values], seed=seed, confidence=confidence, n_resamples=n_resamples)[0]


def mean_intervals(
    sets: Sequence[ArrayLike], *, seed: int = 0, confidence: float = CONFIDENCE, n_resamples: int = N_RESAMPLES
) -> list[Interval]:
    """`mean_interval` of each set of values; thousands of them take about as long as one, since equally long ones are resampled together."""
    arrays = [np.asarray(values, dtype=float) for values in sets]
    found: dict[int, Interval] = {}
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, x in enumerate(arrays):
        if x.ndim == 2 and x.shape[1] > 1:
            found[i] = _over_images_and_seeds(x[np.isfinite(x).all(axis=1)], seed=seed, confidence=confidence)
        else:
            arrays[i] = x = x[np.isfinite(x)]
            by_length[len(x)].append(i)
    for n, members in by_length.items():
        own = row_intervals(np.stack([arrays[i] for i in members]), seed=seed, confidence=confidence, n_resamples=n_resamples)
        ends = zip(own.mean.tolist(), own.low.tolist(), own.high.tolist(), strict=True)
        found |= {i: Interval(mean, low, high, n, seed) for i, (mean, low, high) in zip(members, ends, strict=True)}
    return [found[i] for i in range(len(arrays))]


def paired_difference(values: ArrayLike, others: ArrayLike, *, seed: int = 0, confidence: float = CONFIDENCE) -> Interval:
    """The mean of values - others, image by image: same prompts and noise on both sides, so that they cancel.

    Both are (n,) or (n, s) with s training seeds, of which the i-th on either side are a pair; a side with s = 1 is paired with each.

    Raises:
        ValueError: the two have not the same length, or neither equally many seeds nor one."""
    return paired_differences([(values, others)], seed=seed, confidence=confidence)[0]


def paired_differences(
    pairs: Sequence[tuple[ArrayLike, ArrayLike]], *, seed: int = 0, confidence: float = CONFIDENCE
) -> list[Interval]:
    """`paired_difference` of each pair, resampled together as `mean_intervals` does."""
    return mean_intervals([_difference(*pair) for pair in pairs], seed=seed, confidence=confidence)


def _difference(values: ArrayLike, others: ArrayLike) -> np.ndarray:
    x, y = (np.asarray(side, dtype=float) for side in (values, others))
    if x.ndim != y.ndim or len(x) != len(y) or (x.ndim == 2 and x.shape[1] != y.shape[1] and 1 not in (x.shape[1], y.shape[1])):
        raise ValueError(f"Pairs need equally many values on both sides, but there are {x.shape} and {y.shape}.")
    return x - y


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
