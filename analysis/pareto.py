"""Trade-offs: what is not beaten in everything at once, in two or three metrics. A trial stands for its best rung, by the objective."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.load import FAILED, StudyRecords
from analysis.pictures import description_of
from analysis.tables import best_evaluations
from sweep.records import METRIC_COLUMNS, SIMILARITIES, RecordsError, more_is_better

DEFAULT_AXES = ("lpips", "fid")
AXES = tuple(dict.fromkeys(("objective", "epochs", *METRIC_COLUMNS, *SIMILARITIES)))
MOST_NAMED = 8


def pareto_front(records: StudyRecords, *axes: str) -> pd.DataFrame:
    """One row per trial that no other beats on one axis without being worse on another, the best on the first axis first: its parameters,
    its values and n of pictures. Without `axes` they are those of the study, or LPIPS and FID; `epochs` is the epoch of the best rung.

    Trials that tie on all axes are all on it; one that lacks a value, or failed, is not.

    Raises:
        RecordsError: an axis that is none or that no trial has, or too few or many of them."""
    trials, axes = trade_offs(records, *axes)
    front = trials[trials["is_on_front"]]
    columns = list(dict.fromkeys(["trial", *records.parameters, "best_epoch", *axes, "n_images"]))
    ascending = [not more_is_better(axis) for axis in axes]
    ordered = front.sort_values([*axes, "trial"], ascending=[*ascending, True], kind="stable", ignore_index=True)
    return ordered[[name for name in columns if name != "best_epoch" or "epochs" not in axes]]


def trade_offs(records: StudyRecords, *axes: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """One row per trial that did not fail and has a value on each axis, as best_evaluations has it, with `is_on_front`; and the axes.

    Raises:
        RecordsError: as `pareto_front`."""
    asked, axes = axes, axes or axes_of(records) or DEFAULT_AXES
    if len(axes) not in (2, 3) or len(set(axes)) < len(axes):
        raise RecordsError(f"A Pareto front has two or three different axes, but these are {', '.join(axes)}. Use e.g. --axes lpips fid.")
    for axis in axes:
        if axis not in AXES:
            raise RecordsError(f"A Pareto front takes metrics and epochs, but `{axis}` is none of {', '.join(AXES)}.")
    trials = best_evaluations(records).loc[lambda trials: trials["state"] != FAILED]
    trials = trials.assign(epochs=trials["best_epoch"]) if "epochs" in axes else trials
    missing = [axis for axis in axes if axis not in trials]
    if asked and missing:
        raise RecordsError(f"A Pareto front needs values, but no trial has a `{missing[0]}`. Use `sweep rescore --metric {missing[0]}`.")
    found = trials.reindex(columns=[*trials.columns, *missing]).dropna(subset=list(axes))
    signs = [-1 if more_is_better(axis) else 1 for axis in axes]
    return found.assign(is_on_front=is_on_front(found[list(axes)].to_numpy(dtype=float) * signs)), axes


def axes_of(records: StudyRecords) -> tuple[str, ...]:
    """What the study itself weighs against each other (`pareto`); empty where it does not."""
    return tuple(description_of(records).get("pareto") or ())


def front_notes(records: StudyRecords) -> list[str]:
    """A line for below the ranked table of a study that weighs metrics against each other; none for others."""
    if not axes_of(records):
        return []
    axes, names = axes_of(records), pareto_front(records)["trial"].tolist()
    if not names:  # nothing is scored yet
        return []
    named = ", ".join(names[:MOST_NAMED]) + f" and {len(names) - MOST_NAMED} more" * (len(names) > MOST_NAMED)
    return [f"Ranks are the objective's. Beaten by none in {_listed(axes)} at once (--table pareto): {named}."]


def quality_against_epochs(records: StudyRecords) -> pd.DataFrame:
    """One row per rung of a trial that none matches with fewer or as many epochs, by epoch: what each further epoch bought.

    The steps of the best objective so far: a trial that failed counts nowhere."""
    failed = records.trials.loc[records.trials["state"] == FAILED, "trial"]
    rungs = records.rungs[~records.rungs["trial"].isin(failed)]
    front = rungs[is_on_front(rungs[["epoch", "objective"]].to_numpy(dtype=float))]
    named = front.merge(records.trials[["trial", *records.parameters]], on="trial")
    return named[["epoch", "objective", "trial", *records.parameters]].sort_values(["epoch", "trial"], kind="stable", ignore_index=True)


def is_on_front(values: np.ndarray) -> np.ndarray:  # values (n, axes), lower is better -> (n,) of bool
    """Which rows no other row dominates (at most as large on every axis, smaller on one). Not finite: on no front."""
    on = np.zeros(len(values), dtype=bool)
    finite = np.flatnonzero(np.isfinite(values).all(axis=1))
    distinct, which = np.unique(values[finite], axis=0, return_inverse=True)  # in order: whoever dominates a row comes before it
    is_best, left = np.zeros(len(distinct), dtype=bool), np.arange(len(distinct))
    while len(left):
        is_best[left[0]] = True
        left = left[(distinct[left] < distinct[left[0]]).any(axis=1)]
    on[finite] = is_best[which.reshape(-1)]
    return on


def _listed(axes: Sequence[str]) -> str:
    return f"{', '.join(axes[:-1])} and {axes[-1]}"
