"""What happened on the way: learning curves of trainings, and which trials were left at each rung."""

from __future__ import annotations

import pandas as pd

from analysis.load import CONTROL, FAILED, StudyRecords
from analysis.stats import mean_interval
from sweep.records import METRIC_COLUMNS, best_of

PRUNED = "PRUNED"


def learning_curves(records: StudyRecords) -> pd.DataFrame:
    """One row per image set of an adapter: a training at an epoch under one evaluation configuration, by training, then epoch.

    `training` is the first trial of that training, `n_trials` how many read this image set; `lpips_low` to `kid_high` are the intervals
    over pictures that the records hold, missing in records of schema 1 and 2. Evaluation parameters of the study have their own names."""
    is_trained = (records.evaluations["training_key"] != CONTROL) & records.evaluations[
        "adapter_file"
    ].isna()
    sets = records.evaluations[is_trained]
    readers = _readers_of_sets(records)
    first = readers.sort_values("number", kind="stable").drop_duplicates("evaluation_key").set_index("evaluation_key")["trial"]
    evaluated = {name: sets[f"eval.{name}"] for name in records.parameters if f"eval.{name}" in sets}
    intervals = [f"{metric}_{end}" for metric in ("lpips", "fid", "kid") for end in ("low", "high") if f"{metric}_{end}" in sets]
    columns = ["training_key", "epoch", "objective", *METRIC_COLUMNS, *intervals, "n_images", "evaluation_key"]
    read = sets["evaluation_key"].map(readers["evaluation_key"].value_counts()).fillna(0).astype("Int64")
    curves = sets[columns].assign(**evaluated, n_trials=read, training=sets["evaluation_key"].map(first))
    named = curves.groupby("training_key")["training"].transform("min")
    ordered = curves.assign(training=named).sort_values(
        ["training", "training_key", *evaluated, "epoch"],
        key=_sortable,
        kind="stable",
        ignore_index=True,
    )
    return ordered[["training", "epoch", *evaluated, "n_trials", *columns[2:], "training_key"]]


def survival(records: StudyRecords, *, seed: int = 0) -> pd.DataFrame:
    """One row per rung, by epoch: `n_reached` trials scored there, of which `n_stopped` early there, `n_failed` after it, `n_on` went on or
    are complete; the share that went on; best and mean objective, the latter with its interval
    over trials, from 8 on."""
    state = records.trials.set_index("trial")["state"]
    last = records.rungs.groupby("trial")["epoch"].transform("max")
    rungs = records.rungs.assign(is_last=records.rungs["epoch"].eq(last), state=records.rungs["trial"].map(state))
    rows = []
    for epoch, group in rungs.groupby("epoch"):
        n_stopped, n_failed = ((group["is_last"] & (group["state"] == name)).sum() for name in (PRUNED, FAILED))
        objective = mean_interval(group["objective"], seed=seed)
        n_on = len(group) - n_stopped - n_failed
        counts = {"n_reached": len(group), "n_stopped": n_stopped, "n_failed": n_failed, "n_on": n_on, "share_on": n_on / len(group)}
        ends = {
            "best": best_of(group["objective"].dropna(), "objective"),
            "mean": objective.mean,
            "low": objective.low,
            "high": objective.high,
        }
        rows.append({"epoch": epoch, **counts, **ends})
    columns = ["epoch", "n_reached", "n_stopped", "n_failed", "n_on", "share_on", "best", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _sortable(values: pd.Series) -> pd.Series:
    """Numbers as they are, all else as text: prompts are lists, which have no order of their own."""
    return values if pd.api.types.is_numeric_dtype(values) else values.map(str, na_action="ignore")


def _readers_of_sets(records: StudyRecords) -> pd.DataFrame:
    """One row per trial and image set that it was judged by."""
    readers = records.rungs[["trial", "evaluation_keys"]].explode("evaluation_keys").rename(columns={"evaluation_keys": "evaluation_key"})
    return readers.merge(records.trials[["trial", "number"]], on="trial")
