"""Training seeds and pictures in one interval: of a trial's mean, of the difference of two trials,
and of metrics of whole image sets.

This is the one place that joins the two. What the choice of pictures does is taken from the
pictures (resampling.py; for FID and the like from the intervals in the records), what training
seeds do from all trials of the study (sweep/seed_scatter.py), and the half widths are added as
squares. Spread that each seed's pictures have for themselves is in the seeds' part already, and
counted there only. Where every trial has one training seed, intervals cover the choice of
pictures alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.image_values import ImageValues
from analysis.resampling import FEWEST_PICTURES, Intervals, row_intervals
from sweep.records import Component, SeedScatter, half_width, p_value


@dataclass(frozen=True)
class Differences(Intervals):
    """Means of differences over n pictures; `p` is two-sided, `p_worse` that of the trial's mean
    being above the rival's."""

    p: np.ndarray
    p_worse: np.ndarray


def joint_means(
    images: ImageValues,
    trainings: Sequence[object] | None = None,
    *,
    clusters: np.ndarray | None = None,
    seed: int = 0,
) -> Intervals:
    """The mean of each trial over its pictures and training seeds.

    `trainings` names what each was trained as, None for what was not trained; without it all are
    different trainings. With `clusters`, a label for each pair (its prompt), the interval covers
    the choice of these too."""
    over_pictures = row_intervals(
        images.over_seeds(), clusters=clusters, fewest=FEWEST_PICTURES, seed=seed
    )
    share = np.sqrt(_in_common(images.values, images.n_seeds))
    return _joined(over_pictures, share, seeds_of_means(images, trainings))


def joint_differences(
    images: ImageValues, rival: int, trainings: Sequence[object] | None = None
) -> Differences:
    """The difference of each trial to trial number `rival`, over the pictures that both have:
    Student's t of the pairs of one prompt and noise, and, where there are several training seeds,
    of the pairs of trainings under one seed.

    `trainings` as in `joint_means`. Missing below 2 common pictures."""
    return joint_differences_of(images, [rival], trainings)[0]


def joint_differences_of(
    images: ImageValues, rivals: Sequence[int], trainings: Sequence[object] | None = None
) -> list[Differences]:
    """`joint_differences` to each of the rivals."""
    scatter = seed_scatter(_seed_means(images), trainings)
    return [differences_with(images, rival, scatter.of_differences(rival)) for rival in rivals]


def differences_with(images: ImageValues, rival: int, seeds: Sequence[Component]) -> Differences:
    """`joint_differences` where what training seeds do to each difference is known: for trials
    of different studies."""
    own = images.over_seeds()
    d = own - own[rival]
    finite = np.isfinite(d)
    n = finite.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(finite, d, 0).sum(axis=1) / n
        variance = np.where(finite, (d - mean[:, None]) ** 2, 0).sum(axis=1) / (n - 1) / n
    equal = images.n_seeds == images.n_seeds[rival]
    share = _in_common(images.values - images.values[rival], np.where(equal, images.n_seeds, 1))
    pictures = Component(np.where(n > 1, variance * share, math.nan), np.maximum(1.0, n - 1.0))
    half, p = half_width([pictures, *seeds]), p_value(mean, [pictures, *seeds])
    return Differences(mean, mean - half, mean + half, n, p, np.where(mean > 0, p / 2, 1 - p / 2))


def seeds_of_means(
    images: ImageValues, trainings: Sequence[object] | None = None
) -> list[Component]:
    """What training seeds do to each trial's mean over its pictures."""
    return seed_scatter(_seed_means(images), trainings).of_means()


def joint_recorded(
    values: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    images: ImageValues,
    trainings: Sequence[object] | None = None,
) -> Intervals:  # values, low, high (m, s)
    """The mean over training seeds of a metric of whole image sets, by its value and recorded
    interval under each seed.

    Which part of an interval over pictures does not become less with more seeds, as their
    pictures have it in common, such a metric does not tell. It is taken to be that of the LPIPS
    of `images`; all of it where these are not there."""
    n_seeds = np.isfinite(values).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(np.isfinite(values), values, 0).sum(axis=1) / n_seeds
        below, above = (
            np.sqrt(np.where(np.isfinite(end), (end - values) ** 2, 0).sum(axis=1) / n_seeds)
            for end in (low, high)
        )
    has = (np.isfinite(low) & np.isfinite(high)).sum(axis=1) == n_seeds
    below, above = (
        np.where(has & (n_seeds > 0), distance, math.nan) for distance in (below, above)
    )
    share = np.where(n_seeds > 1, math.sqrt(_common_share_of_one_set(images)), 1.0)
    return _joined(
        Intervals(mean, mean - below, mean + above, n_seeds),
        share,
        seed_scatter(values, trainings).of_means(),
    )


def seed_scatter(
    values: np.ndarray, trainings: Sequence[object] | None = None
) -> SeedScatter:  # values (m, s)
    """The scatter of the seeds of what was trained: a control has a value, but no seed."""
    if trainings is None:
        return SeedScatter(values)
    trained = np.array([one is not None for one in trainings], dtype=bool)
    labels = [index if one is None else ("training", one) for index, one in enumerate(trainings)]
    return SeedScatter(np.where(trained[:, None], values, math.nan), labels)


# ---- private, in the order of use


def _joined(over_pictures: Intervals, share: np.ndarray, seeds: Sequence[Component]) -> Intervals:
    mean, half = over_pictures.mean, half_width(seeds)
    low = mean - np.hypot((mean - over_pictures.low) * share, half)
    return Intervals(
        mean, low, mean + np.hypot((over_pictures.high - mean) * share, half), over_pictures.n
    )


def _seed_means(images: ImageValues) -> np.ndarray:  # (m, s)
    """The mean of each trial's pictures under each of its seeds, over pictures that all trials
    have, if there are any; NaN beyond its seeds."""
    m, _, s = images.values.shape
    own = np.arange(s) < images.n_seeds[:, None]  # (m, s)
    complete = (np.isfinite(images.values) | ~own[:, None, :]).all(axis=2) & (images.n_seeds > 0)[
        :, None
    ]  # (m, n)
    common = complete[complete.any(axis=1)].all(axis=0)
    used = complete & common if common.any() else complete
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (
            np.where(used[:, :, None], np.nan_to_num(images.values), 0).sum(axis=1)
            / used.sum(axis=1)[:, None]
        )
    return np.where(own & used.any(axis=1)[:, None], means, math.nan)


def _residuals(
    values: np.ndarray, n_seeds: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # values (m, n, s)
    """Of the trials with several seeds (by index): the variance between pictures of their means
    over seeds, and what is left of one picture under one seed when picture and seed are taken
    off (mean squares of the analysis of variance; the former over s)."""
    rows, between, left = [], [], []
    for row in np.flatnonzero(n_seeds > 1):
        x = values[row, :, : n_seeds[row]]
        x = x[np.isfinite(x).all(axis=1)]
        n, s = x.shape
        if n < 2:
            continue
        of_pictures = x.mean(axis=1)
        residual = x - of_pictures[:, None] - x.mean(axis=0) + x.mean()
        rows.append(row)
        between.append(of_pictures.var(ddof=1))
        left.append((residual**2).sum() / ((n - 1) * (s - 1)))
    return np.array(rows, dtype=int), np.array(between), np.array(left)


def _in_common(values: np.ndarray, n_seeds: np.ndarray) -> np.ndarray:  # (m, n, s) -> (m,)
    """The share of the variance between pictures, of means over seeds, that they have under
    every seed; 1 where there is one seed."""
    share = np.ones(len(values))
    rows, between, left = _residuals(values, n_seeds)
    with np.errstate(invalid="ignore", divide="ignore"):
        share[rows] = np.where(between > 0, np.clip(1 - left / n_seeds[rows] / between, 0, 1), 0.0)
    return share


def _common_share_of_one_set(images: ImageValues) -> float:
    """The same of a single seed's pictures, of all trials together; 1 where that is not known."""
    rows, between, left = _residuals(images.values, images.n_seeds)
    common = np.maximum(0, between - left / images.n_seeds[rows]).sum()
    return float(common / (common + left.sum())) if common + left.sum() > 0 else 1.0
