"""Trade-offs: what is not beaten in everything at once. Lower is better on either axis."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.load import FAILED, StudyRecords
from analysis.tables import best_evaluations
from sweep.records import METRIC_COLUMNS, RecordsError

HIGHER_IS_BETTER = ("diversity",)


def pareto_front(records: StudyRecords, x: str = "lpips", y: str = "fid") -> pd.DataFrame:
    """One row per trial that no other beats in `x` without being worse in `y`, by `x`: its parameters, both metrics and n of pictures.

    Trials that tie in both are all on it; one that lacks either metric, or failed, is not.

    Raises:
        RecordsError: a metric of which lower is not better, or that no trial has."""
    trials = best_evaluations(records).loc[lambda trials: trials["state"] != FAILED]
    for metric in (x, y):
        if metric in HIGHER_IS_BETTER or metric not in {*METRIC_COLUMNS, "objective"}:
            known = ", ".join(name for name in ("objective", *METRIC_COLUMNS) if name not in HIGHER_IS_BETTER)
            raise RecordsError(f"A Pareto front takes metrics of which lower is better, but `{metric}` is none of {known}.")
    front = trials[is_on_front(trials[[x, y]].to_numpy(dtype=float))]
    columns = list(dict.fromkeys(["trial", *records.parameters, "best_epoch", x, y, "n_images"]))
    return front[columns].sort_values([x, y, "trial"], kind="stable", ignore_index=True)


def quality_against_epochs(records: StudyRecords) -> pd.DataFrame:
    """One row per rung of a trial that none matches with fewer or as many epochs, by epoch: what each further epoch bought.

    The steps of the best objective so far: a trial that failed counts nowhere."""
    failed = records.trials.loc[records.trials["state"] == FAILED, "trial"]
    rungs = records.rungs[~records.rungs["trial"].isin(failed)]
    front = rungs[is_on_front(rungs[["epoch", "objective"]].to_numpy(dtype=float))]
    named = front.merge(records.trials[["trial", *records.parameters]], on="trial")
    return named[["epoch", "objective", "trial", *records.parameters]].sort_values(["epoch", "trial"], kind="stable", ignore_index=True)


def is_on_front(values: np.ndarray) -> np.ndarray:  # values (n, 2) -> (n,) of bool
    """Which rows no other row dominates (at most as large in both, smaller in one). Not finite: on no front."""
    on = np.zeros(len(values), dtype=bool)
    finite = np.flatnonzero(np.isfinite(values).all(axis=1))
    if not len(finite):
        return on
    x, y = values[finite].T
    order = np.lexsort((y, x))
    # A row is on the front where its y is the least of its x, and below the least y of every smaller x.
    starts = np.r_[True, np.diff(x[order]) > 0]
    group = np.cumsum(starts) - 1
    least_of_x = y[order][starts]
    least_before = np.r_[np.inf, np.minimum.accumulate(least_of_x)[:-1]]
    on[finite[order]] = (y[order] == least_of_x[group]) & (least_of_x < least_before)[group]
    return on
