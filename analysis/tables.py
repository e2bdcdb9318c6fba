"""Tables as frames: trials ranked by objective with intervals, the control beside them, and pivots over two parameters.

Frames in, new frames out; how they are printed is analysis/__main__.py's."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.bands import with_bands
from analysis.load import CONTROL, FAILED, StudyRecords
from analysis.stats import mean_interval, mean_intervals, paired_differences
from sweep.records import EVALUATIONS, METRIC_COLUMNS, best_of, more_is_better

METRICS = METRIC_COLUMNS
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
    trials = best_evaluations(records)
    table = pd.concat([trials, _files(records), _controls(records)], ignore_index=True)
    images = _lpips_of_sets(records, table["evaluation_keys"])
    table = table.join(_intervals(table, images, seed=seed)).join(_against_baseline(table, images, seed=seed))
    by = ["is_control", "is_file", "failed", "objective", "number"]
    table = table.assign(failed=table["state"] == FAILED).sort_values(by, na_position="last", kind="stable", ignore_index=True)
    ranked = table.drop(columns="failed")
    has_rank = ranked["objective"].notna() & ~table["failed"] & ~ranked["is_control"] & ~ranked["is_file"]
    return ranked.assign(rank_number=pd.Series(range(1, len(ranked) + 1), dtype="Int64").where(has_rank))


def pivot(records: StudyRecords, *by: str, value: str = "objective", seed: int = 0) -> pd.DataFrame:
    """One row per combination of values of the parameters or labels `by`, e.g. "caption", "guidance": n trials, the best, and the mean with
    its bootstrap interval over trials, drawn with `seed`. Failed trials, and those that lack one of the parameters, are in none.

    Raises:
        KeyError: a parameter that the study did not search, or a value that it did not measure."""
    frame = _grouped_by(records, by, value)
    groups = frame.groupby(list(by), sort=True)[value] if by else []
    rows = [_cell(dict(zip(by, names, strict=True)), group, value, seed=seed) for names, group in groups]
    return pd.DataFrame(rows, columns=[*by, "n", "best", "mean", "low", "high"])


def best_of_each(records: StudyRecords, *by: str, value: str = "objective", seed: int = 0) -> pd.DataFrame:
    """One row per combination of values of the parameters or labels `by`, e.g. "caption": its trial with the best `value`, that trial's
    metrics and the LPIPS interval over its pictures, and out of how many (`n_trials`) it was picked; the best first.

    The best of more trials is better by chance alone: compare rows of equal n_trials. Ties go to the trial of the lowest number.

    Raises:
        KeyError: as `pivot`."""
    frame = _grouped_by(records, by, value).sort_values([value, "number"], ascending=[not more_is_better(value), True], kind="stable")
    counts = frame.groupby(list(by), as_index=False).size().rename(columns={"size": "n_trials"})
    best = frame.drop_duplicates(list(by)).merge(counts, on=list(by)).reset_index(drop=True)
    best = best.join(_intervals(best, _lpips_of_sets(records, best["evaluation_keys"]), seed=seed))
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
    return joined.join(measured, on="trial").assign(is_control=False, is_file=False)


def _means_over_seeds(trials: pd.DataFrame, records: StudyRecords) -> pd.DataFrame:
    """The metrics of each trial, by its name: means over its training seeds, and what their evaluations have in common."""
    each = trials[["trial", "evaluation_keys"]].explode("evaluation_keys").rename(columns={"evaluation_keys": "evaluation_key"})
    each = each.merge(_measured(records.evaluations), on="evaluation_key", how="left")
    metrics = [name for name in each if name not in EVALUATIONS.columns or name in METRICS]
    numbers = [name for name in metrics if pd.api.types.is_float_dtype(each[name])]
    how = {name: "mean" if name in numbers else "first" for name in each.columns.drop("trial")}
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
    return known.merge(_measured(evaluations), on="evaluation_key", how="left")


def _measured(evaluations: pd.DataFrame) -> pd.DataFrame:
    """One row per image set: every metric and its recorded interval, further metrics too, bands, n and networks."""
    # The interval of `lpips` is drawn from the images: `_intervals`. The others need features, and are recorded.
    spread = [name for name in evaluations if name not in EVALUATIONS.columns and not name.startswith("eval.")]
    own = [name for name in spread if name not in ("lpips_low", "lpips_high")]
    columns = ["evaluation_key", *METRICS, *COUNTS, *own, "skipped", "perceptual_backbone", "pooled_backbone"]
    return with_bands(evaluations[columns])


@dataclass(frozen=True)
class _Lpips:
    """LPIPS of images (n, s) under s training seeds; pairs (n,) number their prompt and noise, ascending."""

    pairs: np.ndarray
    values: np.ndarray


_NO_IMAGES = _Lpips(np.empty(0, int), np.empty((0, 1)))


def _lpips_of_sets(records: StudyRecords, keys: pd.Series) -> dict[str, _Lpips]:
    """By evaluation key, for those that the table names."""
    wanted = {key for some in keys if isinstance(some, tuple) for key in some}
    images = records.images[records.images["evaluation_key"].isin(wanted)]
    images = images.assign(pair=images.groupby(list(PAIRED_BY), sort=False).ngroup()).sort_values(["evaluation_key", "pair"])
    names, starts = np.unique(images["evaluation_key"].to_numpy(), return_index=True)
    pairs, values = images["pair"].to_numpy(), images["lpips"].to_numpy(dtype=float)[:, None]
    ends = [*starts[1:], len(images)]
    return {name: _Lpips(pairs[i:j], values[i:j]) for name, i, j in zip(names, starts, ends, strict=False)}


def _over_seeds(keys: object, images: dict[str, _Lpips]) -> _Lpips:
    """Of the images that these evaluations share: a column per training seed; empty where there are none."""
    known = [images[key] for key in keys if key in images] if isinstance(keys, tuple) else []
    if not known:
        return _NO_IMAGES
    if len(known) == 1:
        return known[0]
    pairs = functools.reduce(np.intersect1d, [one.pairs for one in known])
    return _Lpips(pairs, np.concatenate([one.values[np.isin(one.pairs, pairs)] for one in known], axis=1))


def _intervals(table: pd.DataFrame, images: dict[str, _Lpips], *, seed: int) -> pd.DataFrame:
    intervals = mean_intervals([_over_seeds(keys, images).values for keys in table["evaluation_keys"]], seed=seed)
    ends = [(interval.low, interval.high) for interval in intervals]
    return pd.DataFrame(ends, index=table.index, columns=["lpips_low", "lpips_high"], dtype=float)


def _against_baseline(table: pd.DataFrame, images: dict[str, _Lpips], *, seed: int) -> pd.DataFrame:
    columns = ["vs_baseline", "vs_baseline_low", "vs_baseline_high", "vs_baseline_n"]
    marked = table["label.baseline"].eq(True) if "label.baseline" in table else pd.Series(False, index=table.index)
    keys = next(iter(table.loc[marked, "evaluation_keys"].dropna()), None)
    baseline = _over_seeds(keys, images)
    own = [_NO_IMAGES if other == keys else _over_seeds(other, images) for other in table["evaluation_keys"]]
    differences = paired_differences([_common(one, baseline) for one in own], seed=seed)
    rows = [(difference.mean, difference.low, difference.high, difference.n) for difference in differences]
    return pd.DataFrame(rows, index=table.index, columns=columns)


def _common(one: _Lpips, other: _Lpips) -> tuple[np.ndarray, np.ndarray]:
    """The values of the images that both have, in one order."""
    if np.array_equal(one.pairs, other.pairs):
        return one.values, other.values
    return one.values[np.isin(one.pairs, other.pairs)], other.values[np.isin(other.pairs, one.pairs)]


def _cell(names: dict[str, object], values: pd.Series, metric: str, *, seed: int) -> dict[str, object]:
    interval = mean_interval(values, seed=seed)
    return {**names, "n": len(values), "best": best_of(values.tolist(), metric), "mean": interval.mean, "low": interval.low, "high": interval.high}
