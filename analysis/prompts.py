"""What the choice of prompts does: intervals that cover it, and prompts whose words were trained against those whose were not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.image_values import ImageValues, image_values
from analysis.joint import joint_means
from analysis.load import FAILED, StudyRecords
from analysis.resampling import Intervals
from analysis.tables import best_evaluations, trainings_of


def intervals_over_prompts(records: StudyRecords, *, seed: int = 0) -> pd.DataFrame:
    """One row per trial with pictures, the lowest LPIPS first: `lpips`, its 95 % interval over the
    pictures of these prompts (`low`, `high`), and over prompts and pictures (`prompts_low`,
    `prompts_high`): how far it may be off for other prompts of the kind.

    Both cover training seeds too where there are several: see `joint_means`; drawn with `seed`."""
    trials, images = _trials_and_images(records)
    values, trainings = images.over_seeds(), trainings_of(trials)
    plain, clustered = (
        joint_means(images, trainings, seed=seed),
        joint_means(images, trainings, clusters=_labels(images), seed=seed),
    )
    n_prompts = [len(set(images.prompts[finite])) for finite in np.isfinite(values)]
    counts = {"lpips": plain.mean, "low": plain.low, "high": plain.high, "n_images": plain.n}
    over = {"prompts_low": clustered.low, "prompts_high": clustered.high, "n_prompts": n_prompts}
    return _named(records, trials).assign(**counts, **over).sort_values("lpips", kind="stable", ignore_index=True)


def seen_and_unseen(records: StudyRecords, *, seed: int = 0) -> pd.DataFrame:
    """One row per trial with pictures of both groups, by the gap: LPIPS of the prompts whose words
    occur in the training captions and of the others, each with n and its interval, and `gap`,
    unseen less seen, with its own. Above 0 it does not generalise.

    Intervals cover other prompts of the kind (Student's t over prompts) and training seeds where
    there are several; where a group has a single prompt, `covers` says 'images' instead of
    'prompts and images', for the whole row. That of the gap adds the squares of the groups' half
    widths (Zou & Donner 2008, Statist. Med. 27:1693). Drawn with `seed`."""
    trials, images = _trials_and_images(records)
    groups = {name: _only(images, group) for name, group in (("seen", 1), ("unseen", 0))}
    has_both = np.all(
        [np.isfinite(own.over_seeds()).any(axis=1) for own in groups.values()], axis=0
    )
    trials, groups = trials[has_both], {name: own.of(has_both) for name, own in groups.items()}
    labels, trainings = _labels(images), trainings_of(trials)
    n_prompts = np.array(
        [
            [len(np.unique(labels[finite])) for finite in np.isfinite(own.over_seeds())]
            for own in groups.values()
        ]
    ).reshape(2, -1)
    parts = []
    for covers, own in (("prompts and images", (n_prompts > 1).all(axis=0)), ("images", (n_prompts < 2).any(axis=0))):
        clusters = labels if covers != "images" else None
        # All rows, of which those are shown: how far training seeds scatter all of them say
        # together.
        found = {
            name: joint_means(group, trainings, clusters=clusters, seed=seed)
            for name, group in groups.items()
        }
        columns = {
            key: values
            for name, interval in found.items()
            for key, values in _columns(name, interval).items()
        }
        gap = {**_gap(found["seen"], found["unseen"]), "covers": covers}
        parts.append(_named(records, trials).assign(**columns, **gap)[own])
    return pd.concat([part for part in parts if len(part)] or parts[:1]).sort_values(["gap", "trial"], kind="stable", ignore_index=True)


def _trials_and_images(records: StudyRecords) -> tuple[pd.DataFrame, ImageValues]:
    trials = best_evaluations(records).loc[lambda trials: trials["state"] != FAILED].dropna(subset=["evaluation_keys"]).reset_index(drop=True)
    images = image_values(records.images, list(trials["evaluation_keys"]))
    has = np.isfinite(images.values).any(axis=(1, 2))
    return trials[has].reset_index(drop=True), images.of(has)


def _labels(images: ImageValues) -> np.ndarray:
    return pd.factorize(images.prompts, use_na_sentinel=False)[0]


def _named(records: StudyRecords, trials: pd.DataFrame) -> pd.DataFrame:
    return trials[["trial", *records.parameters, "best_epoch"]]


def _columns(group: str, found: Intervals) -> dict[str, np.ndarray]:
    return {f"lpips_{group}": found.mean, f"{group}_low": found.low, f"{group}_high": found.high, f"n_{group}": found.n}


def _gap(seen: Intervals, unseen: Intervals) -> dict[str, np.ndarray]:
    gap = unseen.mean - seen.mean
    low = gap - np.hypot(unseen.mean - unseen.low, seen.high - seen.mean)
    return {
        "gap": gap,
        "gap_low": low,
        "gap_high": gap + np.hypot(unseen.high - unseen.mean, seen.mean - seen.low),
    }


def _only(images: ImageValues, group: int) -> ImageValues:
    """The pictures of the one group of prompts."""
    return replace(
        images, values=np.where((images.seen == group)[:, :, None], images.values, np.nan)
    )
