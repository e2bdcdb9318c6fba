"""What the choice of prompts does: intervals that cover it, and prompts whose words were trained against those whose were not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.image_values import ImageValues, image_values
from analysis.load import FAILED, StudyRecords
from analysis.resampling import Intervals, resample_weights, row_intervals, rows_by_pattern
from analysis.tables import best_evaluations


def intervals_over_prompts(records: StudyRecords, *, seed: int = 0) -> pd.DataFrame:
    """One row per trial with pictures, the lowest LPIPS first: `lpips`, its 95 % bootstrap interval over the pictures of these prompts
    (`low`, `high`), and over prompts and pictures (`prompts_low`, `prompts_high`): how far it may be off for other prompts of the kind.

    Of several training seeds, pictures are means. See `row_intervals`; drawn with `seed`."""
    trials, images = _trials_and_images(records)
    values = images.over_seeds()
    plain, clustered = row_intervals(values, seed=seed), row_intervals(values, clusters=_labels(images), seed=seed)
    n_prompts = [len(set(images.prompts[finite])) for finite in np.isfinite(values)]
    counts = {"lpips": plain.mean, "low": plain.low, "high": plain.high, "n_images": plain.n}
    over = {"prompts_low": clustered.low, "prompts_high": clustered.high, "n_prompts": n_prompts}
    return _named(records, trials).assign(**counts, **over).sort_values("lpips", kind="stable", ignore_index=True)


def seen_and_unseen(records: StudyRecords, *, seed: int = 0) -> pd.DataFrame:
    """One row per trial with pictures of both groups, by the gap: LPIPS of the prompts whose words occur in the training captions and of the
    others, each with n and its interval, and `gap`, unseen less seen, with its own. Above 0 it does not generalise.

    Intervals resample prompts, then pictures (drawn with `seed`); where a group has a single prompt, `covers` says 'images' instead of
    'prompts and images', for the whole row."""
    trials, images = _trials_and_images(records)
    values, labels = images.over_seeds(), _labels(images)
    seen, unseen = (np.where(images.seen == group, values, np.nan) for group in (1, 0))
    has_both = np.isfinite(seen).any(axis=1) & np.isfinite(unseen).any(axis=1)
    trials, seen, unseen = trials[has_both], seen[has_both], unseen[has_both]
    n_prompts = np.array([[len(np.unique(labels[np.isfinite(row)])) for row in group] for group in (seen, unseen)]).reshape(2, -1)
    parts = []
    for covers, own in (("prompts and images", (n_prompts > 1).all(axis=0)), ("images", (n_prompts < 2).any(axis=0))):
        clusters = labels if covers != "images" else None
        found = [row_intervals(group[own], clusters=clusters, seed=seed) for group in (seen, unseen)]
        low, high = _gap_interval(seen[own], unseen[own], clusters, seed=seed)
        gap = {"gap": found[1].mean - found[0].mean, "gap_low": low, "gap_high": high, "covers": covers}
        parts.append(_named(records, trials)[own].assign(**_columns("seen", found[0]), **_columns("unseen", found[1]), **gap))
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


def _gap_interval(seen: np.ndarray, unseen: np.ndarray, clusters: np.ndarray | None, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of unseen less seen, the two resampled independently; missing where either has a single picture."""
    low, high = np.full(len(seen), np.nan), np.full(len(seen), np.nan)
    n = seen.shape[1]
    for mask, rows in rows_by_pattern(np.isfinite(np.hstack([seen, unseen]))):
        halves = mask[:n], mask[n:]
        if min(half.sum() for half in halves) < 2:
            continue
        drawn = [resample_weights(h.sum(), clusters=None if clusters is None else clusters[h], seed=seed + i) for i, h in enumerate(halves)]
        for part in np.array_split(rows, -(-len(rows) // 1000)):
            gap = unseen[np.ix_(part, halves[1])] @ drawn[1].T - seen[np.ix_(part, halves[0])] @ drawn[0].T
            low[part], high[part] = np.percentile(gap, [2.5, 97.5], axis=1)
    return low, high
