"""Intervals: how far a mean over values may be off, one set of them or thousands. What training
seeds do is joint.py's."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.resampling import row_intervals
from sweep.records import CONFIDENCE, N_RESAMPLES


@dataclass(frozen=True)
class Interval:
    """A mean with its interval. `low` and `high` are NaN where there are too few values; `n`
    counts them; `seed` is that of the resampling."""

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
    """The mean of `values` (n,) and its interval, see `row_intervals`. What is not finite is
    left out of both."""
    return mean_intervals([values], seed=seed, confidence=confidence, n_resamples=n_resamples)[0]


def mean_intervals(
    sets: Sequence[ArrayLike], *, seed: int = 0, confidence: float = CONFIDENCE, n_resamples: int = N_RESAMPLES
) -> list[Interval]:
    """`mean_interval` of each set of values; thousands of them take about as long as one, since equally long ones are resampled together."""
    arrays = [np.asarray(values, dtype=float) for values in sets]
    arrays = [x[np.isfinite(x)] for x in arrays]
    found: dict[int, Interval] = {}
    by_length: dict[int, list[int]] = defaultdict(list)
    for i, x in enumerate(arrays):
        by_length[len(x)].append(i)
    for n, members in by_length.items():
        own = row_intervals(np.stack([arrays[i] for i in members]), seed=seed, confidence=confidence, n_resamples=n_resamples)
        ends = zip(own.mean.tolist(), own.low.tolist(), own.high.tolist(), strict=True)
        found |= {i: Interval(mean, low, high, n, seed) for i, (mean, low, high) in zip(members, ends, strict=True)}
    return [found[i] for i in range(len(arrays))]
