"""The best of many: which configurations cannot be told from it, and by how much the best looks
better than it is.

All of this is of a value that every single picture has, LPIPS: FID is one number per image set,
and has no pairs. Differences are of pictures of the same prompt and noise; they cover the choice
of pictures, and of training seeds where trials have several (joint.py)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.image_values import ImageValues, image_values
from analysis.joint import joint_differences, joint_differences_of, seed_scatter
from analysis.load import FAILED, StudyRecords
from analysis.resampling import holm
from analysis.tables import best_evaluations, trainings_of
from sweep.records import N_RESAMPLES, RecordsError, resample_weights

LEVEL = 0.05
N_RIVALS = 50
"""Trials are tested against the best so many: the rest can hardly show that another is not the best, and are counted nonetheless."""

IMAGE_VALUES = ("lpips", "lpips_nearest")


def best_set(records: StudyRecords, *, value: str = "lpips") -> pd.DataFrame:
    """One row per trial with pictures, the lowest mean first: `difference` to the lowest over n
    common pictures, `p_best` and `in_set`.

    `p_best` is that of the claim that this trial is truly the best, tested against every rival: m -
    1 times the smallest one-sided p of a paired t-test (Bonferroni). Trials with p_best above 0.05
    are the set: with 95 % confidence the truly best is in it, whichever trial happened to come out
    first (multiple comparisons with the best, Hsu 1984, Ann. Statist. 12:1136).

    Raises:
        RecordsError: a value that single pictures do not have."""
    trials, images = _scored(records, value)
    mean = images.over_seeds()
    rank = _means(mean)
    order = np.argsort(rank, kind="stable")
    smallest = np.ones(len(trials))
    rivals = order[:N_RIVALS].tolist()
    for rival, found in zip(
        rivals, joint_differences_of(images, rivals, trainings_of(trials)), strict=True
    ):
        smallest = np.fmin(smallest, np.where(np.arange(len(trials)) == rival, 1.0, found.p_worse))
    p_best = np.minimum(1, smallest * max(1, len(trials) - 1))
    columns = ["trial", *records.parameters, "best_epoch"]
    if not len(trials):
        return pd.DataFrame(columns=[*columns, value, "difference", "n", "p_best", "in_set"])
    difference = mean - mean[order[0]]
    found = trials[columns].assign(**{value: rank}, difference=_means(difference), n=np.isfinite(difference).sum(axis=1))
    return found.assign(p_best=p_best, in_set=p_best > LEVEL).iloc[order].reset_index(drop=True)


def paired_comparisons(records: StudyRecords, reference: str | None = None, *, value: str = "lpips") -> pd.DataFrame:
    """One row per other trial with pictures in common with `reference` (a trial; without one, the
    baseline), the lowest first: difference on n common prompts and noises, its 95 % interval
    (Student's t), two-sided p, and `p_holm`, corrected for all rows of this table.

    Where trials have several training seeds, both cover these too: see `joint_differences`.

    Raises:
        RecordsError: there is no such trial with pictures, or a value that single pictures do not have."""
    trials, images = _scored(records, value)
    place = _place_of(records, trials, reference)
    found = joint_differences(images, place, trainings_of(trials))
    numbers = {
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "n": found.n,
        "p": found.p,
    }
    frame = trials[["trial", *records.parameters, "best_epoch"]].assign(**numbers)
    others = frame[(np.arange(len(frame)) != place) & (found.n > 0)]
    return others.assign(p_holm=holm(others["p"])).sort_values("difference", kind="stable", ignore_index=True)


def optimism_of_the_best(records: StudyRecords, *, value: str = "lpips", seed: int = 0) -> pd.DataFrame:
    """One row, for the trial with the lowest mean of m: its value, by how much choosing the lowest
    of m makes it look better than it is (`optimism`), by how much at most, and the value with the
    former added. No row without two trials on common pictures.

    Pictures are resampled; in each resample the lowest is chosen, and its mean there compared
    with its mean over all pictures (the bootstrap form of Tibshirani & Tibshirani 2009, Ann.
    Appl. Stat. 3:822). That takes the differences seen for true, and says too little where
    trials are truly equal: `optimism_at_most` is what it would be if all were. To each resample
    of trials with several training seeds comes what other seeds would do, of the scatter that
    the study shows. Drawn with `seed`."""
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
    resampled += _other_seeds(images.of(has_most), trials, common, rng=np.random.default_rng(seed))
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
        stands_for = trials["equal_trials"].map(lambda names: reference in names)
        marked, why = (
            trials["trial"].eq(reference) | stands_for,
            f"{records.name} has no trial {reference} with pictures",
        )
    if not marked.any():
        raise RecordsError(f"Trials are compared with the baseline or with one that is named, but {why}. Name one, e.g. --with t0000.")
    return int(marked.to_numpy().argmax())


def _means(values: np.ndarray) -> np.ndarray:  # (m, n) -> (m,), what is not finite left out
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(finite, values, 0).sum(axis=1) / finite.sum(axis=1)


def _other_seeds(
    images: ImageValues, trials: pd.DataFrame, common: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:  # -> (b, m)
    """What other training seeds would add to the means of the trials, but for what they do to
    all alike."""
    own = np.arange(images.values.shape[2]) < images.n_seeds[:, None]
    means = np.where(own, images.values[:, common].mean(axis=1), np.nan)
    parts = seed_scatter(means, trainings_of(trials)).of_differences(0)
    variance = sum(part.variance for part in parts) / 2  # of a difference, which two trials share
    variance[0] = variance[1:].max(initial=0.0)
    return rng.normal(size=(N_RESAMPLES, len(variance))) * np.sqrt(variance)
