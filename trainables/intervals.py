"""95 % intervals over the generated images of one set: of means over images, and of FID and KID.
The references are taken as fixed.

A value over images gets the interval of its mean (mean_intervals.py). FID and KID get the
jackknife, because the bootstrap is wrong for FID: resampled sets repeat images, which lowers the
rank of their covariance and raises FID far above the value that it should surround. In
simulation (20 or 100 images against 151 of 64 to 2048 features, 40 to 200 repetitions) the
bootstrap's interval never contained the expected FID of so many images; shifted back onto the
value it always did, at twice the width; the jackknife's did in 95 to 97 %. Single images far
from the others make FID large and its error larger: its interval is that of its logarithm, and
wider where the images' shares in it are skewed. That covers 0.95 of 16 images with features of
Student's t of 4 degrees, 0.84 of 16 whose distance from the middle is log-normal (0.7), where
the jackknife alone covers 0.92 and 0.71; without a fourth moment nothing does. The intervals do
not cover FID's finite-sample bias: they surround what FID is expected to be at this number of
images."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from trainables.mean_intervals import CONFIDENCE, bounds_of_means, resample_weights, widened

Interval = tuple[float, float]

MOST_GROUPS = 32
"""Up to so many images are left out one by one; of more, a group at a time."""
LEAST_IMAGES = 4
"""Fewer images than this give no interval."""


def mean_interval(values: ArrayLike, *, seed: int = 0) -> Interval | None:
    """The interval of the mean of `values` (n,), as `bounds_of_means` gives it; what is not
    finite is left out. None below LEAST_IMAGES."""
    x = np.asarray(values, dtype=float)
    x = x[np.isfinite(x)]
    if len(x) < LEAST_IMAGES:
        return None
    if np.ptp(x) == 0:  # nothing to resample
        return float(x[0]), float(x[0])
    (low,), (high,) = bounds_of_means(x[None], resample_weights(len(x), seed=seed))
    return float(low), float(high)


def jackknife_interval(
    distance: Callable[[Tensor], Tensor], n_images: int, *, is_skewed: bool = False, seed: int = 0
) -> Interval | None:
    """value +- t * se, with se^2 = (g - 1) / g * sum (value without group i - their mean)^2 over g
    groups. None below LEAST_IMAGES.

    `distance` gives (b,) values for rows (b, k) of the generated images:
    metrics.FrechetDistances or KernelDistances. Groups are single images up to MOST_GROUPS, else
    MOST_GROUPS of equal size, give or take one, drawn with `seed`. With `is_skewed` (FID) the
    interval is that of the value's logarithm, wider on one side where the groups' pseudo-values
    are skewed. Reference: Efron & Stein, Annals of Statistics 9 (1981), 586-596; Shao & Tu, The
    Jackknife and Bootstrap (1995), 2.3."""
    from scipy.stats import t

    if n_images < LEAST_IMAGES:
        return None
    everything = np.arange(n_images)
    shuffled = np.random.default_rng(seed).permutation(n_images) if n_images > MOST_GROUPS else everything
    groups = np.array_split(shuffled, min(n_images, MOST_GROUPS))
    value = float(distance(torch.from_numpy(everything[None])))
    without = _values_without(distance, [np.setdiff1d(everything, group) for group in groups])
    g = len(groups)
    se = math.sqrt((g - 1) / g * np.square(without - without.mean()).sum())
    half_width = float(t.ppf((1 + CONFIDENCE) / 2, g - 1)) * se
    if not (is_skewed and value > 0 and half_width > 0):
        return value - half_width, value + half_width
    pseudo = g * value - (g - 1) * without
    (below,), (above,) = widened(pseudo[None], resample_weights(g, seed=seed))
    down, up = float(below) * half_width / value, float(above) * half_width / value
    return value * math.exp(-down), value * (
        math.exp(up) if up < 1 else math.e * up
    )  # beyond, as steep as there


def _values_without(distance: Callable[[Tensor], Tensor], rows: list[np.ndarray]) -> np.ndarray:  # -> (g,)
    sizes = {len(r) for r in rows}  # one, or two neighbours
    return np.concatenate([distance(torch.from_numpy(np.stack([r for r in rows if len(r) == size]))).numpy() for size in sizes])
