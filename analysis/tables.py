"""Tables as frames: trials ranked by objective with intervals, the control beside them, and pivots over two parameters.

Frames in, new frames out; how they are printed is analysis/__main__.py's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.bands import with_bands
from analysis.image_values import ImageValues, image_values
from analysis.load import CONTROL, FAILED, StudyRecords
from analysis.stats import mean_interval, mean_intervals
from sweep.records import EVALUATIONS, METRIC_COLUMNS

METRICS = METRIC_COLUMNS
COUNTS = ("n_images", "n_references", "n_heldout", "n_seen", "n_unseen", "n_copies", "copy_threshold")


def ranked_trials(records: StudyRecords, *, seed: int = 0) -> pd.DataFrame:
    """One row per trial, best first, by the evaluation of its best rung, failed ones last; then one row per control. Neither has a rank.

    `lpips_band` and `fid_band` are verdicts in words: see bands.py. Beside every metric stand `n_images`, `n_references` and the networks; `lpips_low` and `lpips_high` are a 95 % interval over the
    images, drawn with `seed`, and over the training seeds too where `n_train_seeds` is above 1: metrics are then means over them, and
    `objective_spread` is the standard deviation of the objective between them. `vs_baseline` is the mean LPIPS difference to the baseline's image of the same
    prompt and noise (below 0 is closer to the subject), with its interval and `vs_baseline_n` pairs."""
    trials = best_evaluations(records)
    table = pd.concat([trials, _controls(records)], ignore_index=True)
    images = image_values(records.images, list(table["evaluation_keys"]))
    table = table.join(_intervals(table, images, seed=seed)).join(_against_baseline(table, images, seed=seed))
    by = ["is_control", "failed", "objective", "number"]
    table = table.assign(failed=table["state"] == FAILED).sort_values(by, na_position="last", kind="stable", ignore_index=True)
    ranked = table.drop(columns="failed")
    has_rank = ranked["objective"].notna() & ~table["failed"] & ~ranked["is_control"]
    return ranked.assign(rank_number=pd.Series(range(1, len(ranked) + 1), dtype="Int64").where(has_rank))


def pivot(records: StudyRecords, *by: str, value: str = "objective", seed: int = 0) -> pd.DataFrame:
    """One row per combination of values of the parameters or labels `by`, e.g. "caption", "guidance": n trials, the best, and the mean with
    its bootstrap interval over trials, drawn with `seed`. Failed trials, and those that lack one of the parameters, are in none.

    Raises:
        KeyError: a parameter that the study did not search, or a value that it did not measure."""
    frame = _grouped_by(records, by, value)
    groups = frame.groupby(list(by), sort=True)[value] if by else []
    rows = [_cell(dict(zip(by, names, strict=True)), group, seed=seed) for names, group in groups]
    return pd.DataFrame(rows, columns=[*by, "n", "best", "mean", "low", "high"])


def best_of_each(records: StudyRecords, *by: str, value: str = "objective", seed: int = 0) -> pd.DataFrame:
    """One row per combination of values of the parameters or labels `by`, e.g. "caption": its trial with the lowest `value`, that trial's
    metrics and the LPIPS interval over its pictures, and out of how many (`n_trials`) it was picked; the lowest first.

    The best of more trials is lower by chance alone: compare rows of equal n_trials. Ties go to the trial of the lowest number.

    Raises:
        KeyError: as `pivot`."""
    frame = _grouped_by(records, by, value).sort_values([value, "number"], kind="stable")
    counts = frame.groupby(list(by), as_index=False).size().rename(columns={"size": "n_trials"})
    best = frame.drop_duplicates(list(by)).merge(counts, on=list(by)).reset_index(drop=True)
    best = best.join(_intervals(best, image_values(records.images, list(best["evaluation_keys"])), seed=seed))
    others = [name for name in records.parameters if name not in by]
    columns = [*by, "n_trials", "trial", *others, "best_epoch", value, "objective", "lpips", "lpips_low", "lpips_high", "fid", "kid", "n_images"]
    return best[list(dict.fromkeys(columns))]


def _grouped_by(records: StudyRecords, by: tuple[str, ...], value: str) -> pd.DataFrame:
    """One row per trial that did not fail and has the value; parameters that are lists as text, so that they make groups."""
    known = (*records.parameters, *records.labels)
    for name in by:
        if name not in known:
            raise KeyError(f"A pivot takes parameters that the study searched, but `{name}` is none of {', '.join(known)}.")
    frame = best_evaluations(records).loc[lambda trials: trials["state"] != FAILED]
    if value not in frame or not pd.api.types.is_numeric_dtype(frame[value]):
        raise KeyError(f"A value is the objective or a metric of the study, e.g. lpips, but there is no `{value}`.")
    texts = {name: frame[name].map(lambda own: str(own) if isinstance(own, (list, dict)) else own) for name in by if frame[name].dtype == object}
    return frame.assign(**texts).dropna(subset=[*by, value])


def best_evaluations(records: StudyRecords) -> pd.DataFrame:
    """One row per trial, with the evaluations of its best rung, one per training seed, and their means; trials without one keep
    missing metrics."""
    rungs = records.rungs.rename(columns={"epoch": "best_epoch"})[["trial", "best_epoch", "evaluation_keys"]]
    rungs = rungs.astype({"best_epoch": "Int64"}).drop_duplicates(["trial", "best_epoch"], keep="last")
    own = ["best_epoch", "epochs", "objective", "reason", "training_key"]
    columns = ["trial", "number", "state", *records.parameters, *records.labels, *own]
    spread = records.trials["seed_objectives"].map(lambda values: float(np.std(values, ddof=1)) if values else math.nan)
    joined = records.trials[columns].assign(objective_spread=spread.astype(float)).merge(rungs, on=["trial", "best_epoch"], how="left")
    measured = _means_over_seeds(joined.dropna(subset=["evaluation_keys"]), records)
    return joined.join(measured, on="trial").assign(is_control=False)


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
    values = {name: controls[f"eval.{name}"] for name in records.parameters if f"eval.{name}" in controls}
    known = controls[["evaluation_key", "objective"]].assign(**values, trial="control", state="CONTROL", is_control=True)
    known = known.assign(evaluation_keys=[(key,) for key in known["evaluation_key"]])
    return known.merge(_measured(records), on="evaluation_key", how="left")


def _measured(records: StudyRecords) -> pd.DataFrame:
    """One row per image set: every metric and its recorded interval, further metrics too, bands, n and networks."""
    # The interval of `lpips` is drawn from the images: `_intervals`. The others need features, and are recorded.
    spread = [name for name in records.evaluations if name not in EVALUATIONS.columns and not name.startswith("eval.")]
    own = [name for name in spread if name not in ("lpips_low", "lpips_high")]
    columns = ["evaluation_key", *METRICS, *COUNTS, *own, "skipped", "perceptual_backbone", "pooled_backbone"]
    return with_bands(records.evaluations[columns])


def _intervals(table: pd.DataFrame, images: ImageValues, *, seed: int) -> pd.DataFrame:
    low, high = _interval_rows(images.values, images.n_seeds, seed=seed)[1:3]
    return pd.DataFrame({"lpips_low": low, "lpips_high": high}, index=table.index)


def _against_baseline(table: pd.DataFrame, images: ImageValues, *, seed: int) -> pd.DataFrame:
    columns = ["vs_baseline", "vs_baseline_low", "vs_baseline_high", "vs_baseline_n"]
    marked = table["label.baseline"].eq(True) if "label.baseline" in table else pd.Series(False, index=table.index)
    scored = np.flatnonzero(marked & table["evaluation_keys"].notna())
    if not len(scored) or not np.isfinite(images.values[scored[0]]).any():
        return pd.DataFrame([_none()] * len(table), index=table.index, columns=columns)
    baseline, n_own = images.values[scored[0]], images.n_seeds[scored[0]]
    if (wrong := (images.n_seeds != n_own) & (images.n_seeds > 1) & (n_own > 1)).any():
        raise ValueError(f"Pairs need equally many training seeds on both sides, but there are {n_own} and {images.n_seeds[wrong][0]}.")
    # One training seed is paired with each of several: a control has no seed of its own.
    n_seeds = np.where(images.n_seeds == 0, 0, np.maximum(images.n_seeds, n_own))
    own = np.where((images.n_seeds == 1)[:, None, None], images.values[:, :, :1], images.values)
    differences = own - (baseline[:, :1] if n_own == 1 else baseline)
    keys = table["evaluation_keys"].tolist()
    differences[[own == keys[scored[0]] for own in keys]] = math.nan
    return pd.DataFrame(dict(zip(columns, _interval_rows(differences, n_seeds, seed=seed), strict=True)), index=table.index)


def _interval_rows(values: np.ndarray, n_seeds: np.ndarray, *, seed: int) -> tuple[np.ndarray, ...]:  # values (m, n, s), n_seeds (m,)
    """Mean, low, high and n of each trial: over its images, and over its training seeds too where it has several."""
    found = mean_intervals(values[:, :, 0], seed=seed)
    mean, low, high, n = found.mean, found.low, found.high, found.n
    for i in np.flatnonzero(n_seeds > 1):
        own = mean_interval(values[i, :, : n_seeds[i]], seed=seed)
        mean[i], low[i], high[i], n[i] = own.mean, own.low, own.high, own.n
    return mean, low, high, n


def _none() -> tuple[float, float, float, int]:
    return math.nan, math.nan, math.nan, 0


def _cell(names: dict[str, object], values: pd.Series, *, seed: int) -> dict[str, object]:
    interval = mean_interval(values, seed=seed)
    return {**names, "n": len(values), "best": float(values.min()), "mean": interval.mean, "low": interval.low, "high": interval.high}
