"""What the subject's held-out photographs score beside the trials, and how far the best trial has
come from no adapter towards them.

They are the end of the scale: pictures of the subject that no adapter made. Their row is in the
records as that of an adapter's file is."""

from __future__ import annotations

import pandas as pd

from analysis.controls import PHOTOGRAPHS, controls_of
from analysis.load import StudyRecords
from sweep.records import more_is_better

COMPARED = ("lpips", "fid", "kid", "dinov2", "clip_i", "face")
DEPENDS_ON_N = ("fid",)
"""Metrics that only compare at equal numbers of pictures."""


def photograph_notes(records: StudyRecords, ranked: pd.DataFrame) -> list[str]:
    """A line on the best trial's way, by metric; none where an end of the way, or its interval, is
    not known. `ranked` as ranked_trials gives."""
    shares = way_to_photographs(records, ranked)
    if not len(shares):
        return []
    texts = [f"{share:.0%} in {metric}" for metric, share in shares.items()]
    trial = ranked.loc[ranked["rank_number"].eq(1), "trial"].iloc[0]
    return [
        f"Of the way from no adapter to your held-out photographs {trial} has gone "
        f"{', '.join(texts)}."
    ]


def way_to_photographs(records: StudyRecords, ranked: pd.DataFrame) -> pd.Series:
    """By metric, the share of the way from no adapter (0) to held-out photographs (1) that the best
    trial has gone. A metric is there where both ends have an interval and the photographs are
    better; FID only where all three are of as many pictures."""
    evaluations = records.evaluations.set_index("evaluation_key")
    best, photographs = ranked[ranked["rank_number"].eq(1)], _row_of_photographs(
        evaluations, ranked
    )
    if best.empty or photographs is None:
        return pd.Series(dtype=float)
    best = best.iloc[0]
    control_key = controls_of(records.evaluations).get(best["evaluation_key"])
    controls = ranked[ranked["is_control"] & ranked["evaluation_key"].eq(control_key)]
    if controls.empty:
        return pd.Series(dtype=float)
    control = controls.iloc[0]
    shares = {}
    for metric in COMPARED:
        ends = (control, photographs)
        if metric not in ranked or any(
            pd.isna(row.get(f"{metric}{part}")) for row in ends for part in ("", "_low", "_high")
        ):
            continue
        if (
            metric in DEPENDS_ON_N
            and len({_n_of(metric, evaluations, row) for row in (*ends, best)}) > 1
        ):
            continue
        way = (control[metric] - photographs[metric]) * (-1 if more_is_better(metric) else 1)
        if way > 0 and pd.notna(best[metric]):
            shares[metric] = (control[metric] - best[metric]) / (
                control[metric] - photographs[metric]
            )
    return pd.Series(shares, dtype=float)


def _row_of_photographs(evaluations: pd.DataFrame, ranked: pd.DataFrame) -> pd.Series | None:
    keys = evaluations.index[evaluations["training_key"].eq(PHOTOGRAPHS)]
    rows = ranked[ranked["is_file"] & ranked["evaluation_key"].isin(keys)]
    return None if rows.empty else rows.iloc[0]


def _n_of(metric: str, evaluations: pd.DataFrame, row: pd.Series) -> int | None:
    """Of how many pictures the recorded value is."""
    intervals = evaluations.loc[row["evaluation_key"], "intervals"]
    return intervals[metric][2] if isinstance(intervals, dict) and metric in intervals else None
