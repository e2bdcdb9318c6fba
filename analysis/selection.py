"""The best of many: which configurations cannot be told from it, and by how much the best looks better than it is.

All of this is of a value that every single picture has, LPIPS: FID is one number per image set, and has no pairs. Differences are of
pictures of the same prompt and noise; they cover the choice of pictures, and of training seeds where every trial has several."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.image_values import ImageValues, image_values
from analysis.load import FAILED, StudyRecords
from analysis.resampling import holm, resample_weights
from analysis.stats import N_RESAMPLES
from analysis.tables import best_evaluations
from sweep.records import RecordsError

LEVEL = 0.05
N_RIVALS = 50
"""Trials are tested against the best so many: the rest can hardly show that another is not the best, and are counted nonetheless."""

IMAGE_VALUES = ("lpips", "lpips_nearest")


def best_set(records: StudyRecords, *, value: str = "lpips") -> pd.DataFrame:
    """One row per trial with pictures, the lowest mean first: `difference` to the lowest over n common pictures, `p_best` and `in_set`.

    `p_best` is that of the claim that this trial is truly the best, tested against every rival: m - 1 times the smallest one-sided p of a
    paired t-test (Bonferroni). Trials with p_best above 0.05 are the set: with 95 % confidence the truly best is in it, whichever trial
    happened to come out first (multiple comparisons with the best, Hsu 1984, Ann. Statist. 12:1136).

    Raises:
        RecordsError: a value that single pictures do not have."""
    trials, images = _scored(records, value)
    mean = images.over_seeds()
    rank = _means(mean)
    order = np.argsort(rank, kind="stable")
    smallest = np.ones(len(trials))
    for rival in order[:N_RIVALS]:
        p = _p_worse(*_differences(images, rival))
        p[rival] = 1.0
        smallest = np.fmin(smallest, p)
    p_best = np.minimum(1, smallest * max(1, len(trials) - 1))
    columns = ["trial", *records.parameters, "best_epoch"]
    if not len(trials):
        return pd.DataFrame(columns=[*columns, value, "difference", "n", "p_best", "in_set"])
    difference = mean - mean[order[0]]
    found = trials[columns].assign(**{value: rank}, difference=_means(difference), n=np.isfinite(difference).sum(axis=1))
    return found.assign(p_best=p_best, in_set=p_best > LEVEL).iloc[order].reset_index(drop=True)


def paired_comparisons(records: StudyRecords, reference: str | None = None, *, value: str = "lpips") -> pd.DataFrame:
    """One row per other trial with pictures in common with `reference` (a trial; without one, the baseline), the lowest first: difference
    on n common prompts and noises, its 95 % interval (Student's t), two-sided p, and `p_holm`, corrected for all rows of this table.

    Where every trial has several training seeds, variances of images and of seeds are added, as analysis/stats.py does.

    Raises:
        RecordsError: there is no such trial with pictures, or a value that single pictures do not have."""
    from scipy.stats import t as student

    trials, images = _scored(records, value)
    place = _place_of(records, trials, reference)
    mean, error, freedom, n = _differences(images, place)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(error > 0, 2 * student.sf(np.abs(mean / error), freedom), np.where(mean == 0, 1.0, 0.0))
    half = student.ppf(0.975, freedom) * error
    p[~np.isfinite(error)] = math.nan
    frame = trials[["trial", *records.parameters, "best_epoch"]].assign(difference=mean, low=mean - half, high=mean + half, n=n, p=p)
    others = frame[(np.arange(len(frame)) != place) & (n > 0)]
    return others.assign(p_holm=holm(others["p"])).sort_values("difference", kind="stable", ignore_index=True)


def optimism_of_the_best(records: StudyRecords, *, value: str = "lpips", seed: int = 0) -> pd.DataFrame:
    """One row, for the trial with the lowest mean of m: its value, by how much choosing the lowest of m makes it look better than it is
    (`optimism`), by how much at most, and the value with the former added. No row without two trials on common pictures.

    Pictures are resampled; in each resample the lowest is chosen, and its mean there compared with its mean over all pictures (the bootstrap
    form of Tibshirani & Tibshirani 2009, Ann. Appl. Stat. 3:822). That takes the differences seen for true, and says too little where trials
    are truly equal: `optimism_at_most` is what it would be if all were. Drawn with `seed`."""
    trials, images = _scored(records, value)
    mean = images.over_seeds()
    has_most = np.isfinite(mean).sum(axis=1) == np.isfinite(mean).sum(axis=1).max(initial=0)
    mean, trials = mean[has_most], trials[has_most]
    common = np.isfinite(mean).all(axis=0)
    columns = ["trial", "n_trials", "n", value, "optimism", "optimism_at_most", "corrected"]
    if len(mean) < 2 or common.sum() < 2:
        return pd.DataFrame(columns=columns)
    x = mean[:, common]
    resampled = resample_weights(x.shape[1], seed=seed, n_resamples=N_RESAMPLES) @ x.T
    chosen = resampled.argmin(axis=1)
    optimism = float((x.mean(axis=1)[chosen] - resampled[np.arange(len(chosen)), chosen]).mean())
    at_most = float(-(resampled - x.mean(axis=1)).min(axis=1).mean())
    best = int(x.mean(axis=1).argmin())
    row = (trials["trial"].iloc[best], len(x), x.shape[1], x[best].mean(), optimism, at_most, x[best].mean() + optimism)
    return pd.DataFrame([row], columns=columns)


def selection_statement(best: pd.DataFrame, optimism: pd.DataFrame, *, value: str = "lpips") -> str:
    """What `best_set` and `optimism_of_the_best` found, in sentences that may stand under a table."""
    if best.empty:
        return "No trial has pictures: no best configuration."
    first, n_in = best["trial"].iloc[0], int(best["in_set"].sum())
    others = ", ".join(best.loc[best["in_set"], "trial"].iloc[1:6]) + (" ..." if n_in > 6 else "")
    told = f"{n_in - 1} of the other {len(best) - 1} trials cannot be told from it ({others})" if n_in > 1 else f"it is told from the other {len(best) - 1}"
    text = f"Lowest {value}: {first}, {best[value].iloc[0]:.3f}; {told} at 95 % confidence, corrected for {max(1, len(best) - 1)} comparisons (Hsu 1984)."
    if optimism.empty:
        return text
    row = optimism.iloc[0]
    return (
        f"{text} As the lowest of {row['n_trials']} it looks about {row['optimism']:.3f} better than it is, {row['optimism_at_most']:.3f} at most: expect"
        f" {row['corrected']:.3f} of new pictures (Tibshirani & Tibshirani 2009)."
    )


def _scored(records: StudyRecords, value: str) -> tuple[pd.DataFrame, ImageValues]:
    """The trials that have pictures and did not fail, and their pictures' values."""
    if value not in IMAGE_VALUES:
        raise RecordsError(f"Pictures are compared by a value that each one has, {' or '.join(IMAGE_VALUES)}, but `{value}` was asked for.")
    trials = best_evaluations(records).loc[lambda trials: trials["state"] != FAILED].dropna(subset=["evaluation_keys"]).reset_index(drop=True)
    images = image_values(records.images, list(trials["evaluation_keys"]), value)
    has = np.isfinite(images.values).any(axis=(1, 2))
    return trials[has].reset_index(drop=True), images.of(has)


def _place_of(records: StudyRecords, trials: pd.DataFrame, reference: str | None) -> int:
    if reference is None:
        marked = trials["label.baseline"].eq(True) if "label.baseline" in trials else pd.Series(False, index=trials.index)
        why = f"no trial of {records.name} with pictures is labelled baseline"
    else:
        marked, why = trials["trial"].eq(reference), f"{records.name} has no trial {reference} with pictures"
    if not marked.any():
        raise RecordsError(f"Trials are compared with the baseline or with one that is named, but {why}. Name one, e.g. --with t0000.")
    return int(marked.to_numpy().argmax())


def _means(values: np.ndarray) -> np.ndarray:  # (m, n) -> (m,), what is not finite left out
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(finite, values, 0).sum(axis=1) / finite.sum(axis=1)


def _differences(images: ImageValues, rival: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean difference of each trial to the rival over common pictures, standard error, degrees of freedom (Satterthwaite), and n."""
    own = images.over_seeds()
    d = own - own[rival]
    mean, n = _means(d), np.isfinite(d).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        by_images = np.where(np.isfinite(d), (d - mean[:, None]) ** 2, 0).sum(axis=1) / (n - 1) / n
        freedom = n - 1.0
        s = images.values.shape[2]
        if s > 1 and (images.n_seeds == s).all():
            per_seed = images.values - images.values[rival]
            per_seed = np.where(np.isfinite(per_seed).all(axis=2, keepdims=True), per_seed, 0).sum(axis=1) / n[:, None]
            by_seeds = per_seed.var(axis=1, ddof=1) / s
            total = by_images + by_seeds
            freedom = np.where(total > 0, total**2 / (by_images**2 / (n - 1) + by_seeds**2 / (s - 1)), n - 1.0)
            by_images = total
    return mean, np.where(n > 1, np.sqrt(by_images), np.nan), freedom, n


def _p_worse(mean: np.ndarray, error: np.ndarray, freedom: np.ndarray, n: np.ndarray) -> np.ndarray:
    """One-sided p that a trial's mean is above its rival's; missing below 2 common pictures. Differences without spread are certain."""
    from scipy.stats import t as student

    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(error > 0, student.sf(mean / error, freedom), np.where(mean > 0, 0.0, 1.0))
    return np.where(n > 1, p, np.nan)
