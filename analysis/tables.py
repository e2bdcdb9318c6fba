"""Tables as frames: trials ranked by objective with intervals, the control beside them, and pivots over two parameters.

Frames in, new frames out; how they are printed is analysis/__main__.py's."""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np
import pandas as pd

from analysis.bands import with_bands
from analysis.load import CONTROL, FAILED, StudyRecords
from analysis.stats import mean_interval, paired_difference
from sweep.records import EVALUATIONS

METRICS = (
    *("lpips", "lpips_nearest", "lpips_heldout", "diversity", "fid", "kid", "fid_heldout", "kid_heldout"),
    *("fid_inf", "lpips_seen", "lpips_unseen", "fid_seen", "fid_unseen", "kid_seen", "kid_unseen", "heldout_loss"),
)
COUNTS = ("n_images", "n_references", "n_heldout", "n_seen", "n_unseen", "n_copies", "copy_threshold")
PAIRED_BY = ("prompt", "seed")
"""Two images are a pair where the prompt and the noise are the same: common random numbers."""


def ranked_trials(records: StudyRecords, *, seed: int = 0) -> pd.DataFrame:
    """One row per trial, best first, by the evaluation of its best rung, failed ones last; then one row per adapter file that was scored
    beside them (`is_file`), and one per control. None of these has a rank.

    `lpips_band` and `fid_band` are verdicts in words: see bands.py. Beside every metric stand `n_images`, `n_references` and the networks; `lpips_low` and `lpips_high` are a 95 % interval over the
    images, drawn with `seed`, and over the training seeds too where `n_train_seeds` is above 1: metrics are then means over them, and
    `objective_spread` is the standard deviation of the objective between them. `vs_baseline` is the mean LPIPS difference to the baseline's image of the same
    prompt and noise (below 0 is closer to the subject), with its interval and `vs_baseline_n` pairs."""
    trials = _best_evaluations(records)
    table = pd.concat([trials, _files(records), _controls(records)], ignore_index=True)
    images = dict(tuple(records.images.groupby("evaluation_key")))
    table = table.join(_intervals(table, images, seed=seed)).join(_against_baseline(table, images, seed=seed))
    by = ["is_control", "is_file", "failed", "objective", "number"]
    table = table.assign(failed=table["state"] == FAILED).sort_values(by, na_position="last", kind="stable", ignore_index=True)
    ranked = table.drop(columns="failed")
    has_rank = ranked["objective"].notna() & ~table["failed"] & ~ranked["is_control"] & ~ranked["is_file"]
    return ranked.assign(rank_number=pd.Series(range(1, len(ranked) + 1), dtype="Int64").where(has_rank))


def pivot(records: StudyRecords, a: str, b: str, *, value: str = "objective", seed: int = 0) -> pd.DataFrame:
    """One row per pair of values of the parameters `a` and `b`: n trials, the best, and the mean with its bootstrap interval.

    Raises:
        KeyError: a parameter that the study did not search."""
    for name in (a, b):
        if name not in records.parameters:
            raise KeyError(f"A pivot takes parameters that the study searched, but `{name}` is none of {', '.join(records.parameters)}.")
    frame = _best_evaluations(records).query("state != @FAILED").dropna(subset=[value])
    rows = [_cell({a: cell_a, b: cell_b}, group[value], seed=seed) for (cell_a, cell_b), group in frame.groupby([a, b])]
    return pd.DataFrame(rows, columns=[a, b, "n", "best", "mean", "low", "high"])


def _best_evaluations(records: StudyRecords) -> pd.DataFrame:
    """One row per trial, with the evaluations of its best rung, one per training seed, and their means; trials without one keep
    missing metrics."""
    rungs = records.rungs.rename(columns={"epoch": "best_epoch"})[["trial", "best_epoch", "evaluation_keys"]]
    rungs = rungs.astype({"best_epoch": "Int64"}).drop_duplicates(["trial", "best_epoch"], keep="last")
    own = ["best_epoch", "epochs", "objective", "reason", "training_key"]
    columns = ["trial", "number", "state", *records.parameters, *records.labels, *own]
    spread = records.trials["seed_objectives"].map(lambda values: float(np.std(values, ddof=1)) if values else math.nan)
    joined = records.trials[columns].assign(objective_spread=spread.astype(float)).merge(rungs, on=["trial", "best_epoch"], how="left")
    measured = _means_over_seeds(joined.dropna(subset=["evaluation_keys"]), records)
    return joined.join(measured, on="trial").assign(is_control=False, is_file=False)


def _means_over_seeds(trials: pd.DataFrame, records: StudyRecords) -> pd.DataFrame:
    """The metrics of each trial, by its name: means over its training seeds, and what their evaluations have in common."""
    each = trials[["trial", "evaluation_keys"]].explode("evaluation_keys").rename(columns={"evaluation_keys": "evaluation_key"})
    each = each.merge(_measured(records), on="evaluation_key", how="left")
    how = {name: "mean" if name in METRICS else "first" for name in each.columns.drop("trial")}
    counts = trials.set_index("trial")["evaluation_keys"].map(len).astype("Int64")
    return each.groupby("trial").agg(how).assign(n_train_seeds=counts)


def _controls(records: StudyRecords) -> pd.DataFrame:
    """One row per evaluation without an adapter, its evaluation values in the columns of the parameters."""
    controls = records.evaluations[records.evaluations["training_key"] == CONTROL]
    return _without_a_trial(controls, records).assign(trial="control", state="CONTROL", is_control=True, is_file=False)


def _files(records: StudyRecords) -> pd.DataFrame:
    """One row per evaluation of an adapter file that the study did not train, named after the file."""
    files = records.evaluations[records.evaluations["adapter_file"].notna()]
    return _without_a_trial(files, records).assign(trial=list(files["adapter_file"]), state="FILE", is_control=False, is_file=True)


def _without_a_trial(evaluations: pd.DataFrame, records: StudyRecords) -> pd.DataFrame:
    values = {name: evaluations[f"eval.{name}"] for name in records.parameters if f"eval.{name}" in evaluations}
    known = evaluations[["evaluation_key", "objective"]].assign(**values)
    known = known.assign(evaluation_keys=[(key,) for key in known["evaluation_key"]])
    return known.merge(_measured(records), on="evaluation_key", how="left")


def _measured(records: StudyRecords) -> pd.DataFrame:
    """One row per image set: every metric and its recorded interval, further metrics too, bands, n and networks."""
    # The interval of `lpips` is drawn from the images: `_intervals`. The others need features, and are recorded.
    spread = [name for name in records.evaluations if name not in EVALUATIONS.columns and not name.startswith("eval.")]
    own = [name for name in spread if name not in ("lpips_low", "lpips_high")]
    columns = ["evaluation_key", *METRICS, *COUNTS, *own, "skipped", "perceptual_backbone", "pooled_backbone"]
    return with_bands(records.evaluations[columns])


def _lpips_by_image(keys: object, images: dict[Hashable, pd.DataFrame]) -> pd.DataFrame:
    """LPIPS of the images that these evaluations share, by prompt and noise: a column per training seed; empty where there are none."""
    known = [key for key in keys if key in images] if isinstance(keys, tuple) else []
    columns = [images[key].set_index(list(PAIRED_BY))["lpips"] for key in known]
    return pd.concat(columns, axis=1, join="inner", ignore_index=True) if columns else pd.DataFrame()


def _intervals(table: pd.DataFrame, images: dict[Hashable, pd.DataFrame], *, seed: int) -> pd.DataFrame:
    intervals = [mean_interval(_lpips_by_image(keys, images), seed=seed) for keys in table["evaluation_keys"]]
    ends = [(interval.low, interval.high) for interval in intervals]
    return pd.DataFrame(ends, index=table.index, columns=["lpips_low", "lpips_high"], dtype=float)


def _against_baseline(table: pd.DataFrame, images: dict[Hashable, pd.DataFrame], *, seed: int) -> pd.DataFrame:
    columns = ["vs_baseline", "vs_baseline_low", "vs_baseline_high", "vs_baseline_n"]
    marked = table["label.baseline"].eq(True) if "label.baseline" in table else pd.Series(False, index=table.index)
    keys = next(iter(table.loc[marked, "evaluation_keys"].dropna()), None)
    baseline = _lpips_by_image(keys, images)
    if baseline.empty:
        return pd.DataFrame([_none()] * len(table), index=table.index, columns=columns)
    others = [_lpips_by_image(own, images) if own != keys else pd.DataFrame() for own in table["evaluation_keys"]]
    return pd.DataFrame([_difference(own, baseline, seed=seed) for own in others], index=table.index, columns=columns)


def _difference(images: pd.DataFrame, baseline: pd.DataFrame, *, seed: int) -> tuple[float, float, float, int]:
    if images.empty:
        return _none()
    own, other = images.align(baseline, join="inner", axis=0)
    difference = paired_difference(own, other, seed=seed)
    return difference.mean, difference.low, difference.high, difference.n


def _none() -> tuple[float, float, float, int]:
    return math.nan, math.nan, math.nan, 0


def _cell(names: dict[str, object], values: pd.Series, *, seed: int) -> dict[str, object]:
    interval = mean_interval(values, seed=seed)
    return {**names, "n": len(values), "best": float(values.min()), "mean": interval.mean, "low": interval.low, "high": interval.high}
