"""Tables as frames: trials ranked by objective with intervals, the control beside them, and pivots over two parameters.

Frames in, new frames out; how they are printed is analysis/__main__.py's."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from analysis.bands import with_bands
from analysis.controls import PHOTOGRAPHS
from analysis.image_values import image_values
from analysis.joint import joint_differences, joint_means, joint_recorded
from analysis.load import CONTROL, FAILED, StudyRecords
from analysis.stats import mean_interval
from sweep.records import (
    EVALUATIONS,
    METRIC_COLUMNS,
    best_of,
    more_is_better,
    state_word,
)

METRICS = METRIC_COLUMNS
COUNTS = ("n_images", "n_references", "n_heldout", "n_seen", "n_unseen", "n_copies", "copy_threshold")


def ranked_trials(records: StudyRecords, *, seed: int = 0) -> pd.DataFrame:
    """One row per trial, best first, by the evaluation of its best rung, failed ones last; then one row per adapter file that was scored
    beside them (`is_file`), and one per control. None of these has a rank.

    `lpips_band` and `fid_band` are verdicts in words: see bands.py. Beside every metric stand
    `n_images`, `n_references` and the networks. METRIC_low and METRIC_high are 95 % intervals over
    the images, that of LPIPS drawn with `seed`, and over the training seeds too where
    `n_train_seeds` is above 1: metrics are then means over them, `n_copies` is their sum, and
    `objective_spread` is the standard deviation of the objective between them (see joint.py).
    `vs_baseline` is the mean LPIPS difference to the baseline's image of the same prompt and noise
    (below 0 is closer to the subject), with its interval and `vs_baseline_n` pairs."""
    trials = best_evaluations(records)
    table = pd.concat([trials, _files(records), _controls(records)], ignore_index=True)
    table = table.join(_intervals(table, records, seed=seed)).join(
        _against_baseline(table, records)
    )
    by = ["is_control", "is_file", "failed", "objective", "number", "evaluation_key"]
    table = table.assign(failed=table["state"] == FAILED).sort_values(by, na_position="last", kind="stable", ignore_index=True)
    ranked = table.drop(columns="failed")
    has_rank = ranked["objective"].notna() & ~table["failed"] & ~ranked["is_control"] & ~ranked["is_file"]
    return ranked.assign(rank_number=pd.Series(range(1, len(ranked) + 1), dtype="Int64").where(has_rank))


def pivot(records: StudyRecords, *by: str, value: str = "objective", seed: int = 0) -> pd.DataFrame:
    """One row per combination of values of the parameters or labels `by`, e.g. "caption", "guidance": n trials, the best, and the mean with
    its interval over trials (from 8 on, see resampling.py), drawn with `seed`. Failed trials, and
    those that lack one of the parameters, are in none.

    Raises:
        KeyError: a parameter that the study did not search, or a value that it did not measure."""
    frame = _grouped_by(records, by, value)
    groups = frame.groupby(list(by), sort=True)[value] if by else []
    rows = [
        _cell(dict(zip(by, names, strict=True)), group, value, seed=seed) for names, group in groups
    ]
    return pd.DataFrame(rows, columns=[*by, "n", "best", "mean", "low", "high"])


def best_of_each(records: StudyRecords, *by: str, value: str = "objective", seed: int = 0) -> pd.DataFrame:
    """One row per combination of values of the parameters or labels `by`, e.g. "caption": its trial
    with the best `value`, that trial's metrics and the LPIPS interval over its pictures, and out of
    how many (`n_trials`) it was picked; the best first.

    The best of more trials is better by chance alone: compare rows of equal n_trials. Ties go to
    the trial of the lowest number.

    Raises:
        KeyError: as `pivot`."""
    frame = _grouped_by(records, by, value).sort_values(
        [value, "number"], ascending=[not more_is_better(value), True], kind="stable"
    )
    counts = frame.groupby(list(by), as_index=False).size().rename(columns={"size": "n_trials"})
    frame = frame.join(_intervals(frame, records, seed=seed))
    best = frame.drop_duplicates(list(by)).merge(counts, on=list(by)).reset_index(drop=True)
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
    """One row per trial, with the evaluations of its best rung, one per training seed, and their
    means; trials without one keep missing metrics.

    Of trials with equal configurations, which are one adapter, only the best is there:
    `equal_trials` names the others (a tuple), and the baseline stays marked. `state_word` is how a
    person reads `state`."""
    rungs = records.rungs.rename(columns={"epoch": "best_epoch"})[["trial", "best_epoch", "evaluation_keys"]]
    rungs = rungs.astype({"best_epoch": "Int64"}).drop_duplicates(["trial", "best_epoch"], keep="last")
    own = ["best_epoch", "epochs", "objective", "reason", "training_key"]
    columns = ["trial", "number", "state", *records.parameters, *records.labels, *own]
    spread = records.trials["seed_objectives"].map(lambda values: float(np.std(values, ddof=1)) if values else math.nan)
    words = [
        state_word(state, cause)
        for state, cause in zip(records.trials["state"], records.trials["cause"], strict=True)
    ]
    known = records.trials[columns].assign(objective_spread=spread.astype(float), state_word=words)
    joined = _one_of_each(known, records).merge(rungs, on=["trial", "best_epoch"], how="left")
    measured = _means_over_seeds(joined.dropna(subset=["evaluation_keys"]), records)
    return joined.join(measured, on="trial").assign(is_control=False, is_file=False)


def _one_of_each(trials: pd.DataFrame, records: StudyRecords) -> pd.DataFrame:
    """The trials without those that repeat the training, configuration and labels of a better
    one."""
    labels = [name for name in records.labels if name != "label.baseline"]
    texts = trials[["training_key", *records.parameters, *labels]].astype(object).map(str)
    has_score = (
        trials["objective"].notna() & trials["state"].ne(FAILED) & trials["training_key"].notna()
    )
    own = pd.Series([tuple(row) for row in texts.to_numpy()], index=trials.index, dtype=object)
    own = own.where(has_score, trials["trial"])
    ranked = trials.assign(own=own).sort_values(["objective", "number"], kind="stable")
    others = ranked.groupby("own", sort=False)["trial"].agg(lambda names: tuple(names)[1:])
    kept = ranked.drop_duplicates("own").sort_index()
    kept = kept.assign(equal_trials=kept["own"].map(others))
    if "label.baseline" in kept:
        marked = ranked.loc[ranked["label.baseline"].eq(True), "own"]
        kept = kept.assign(
            **{"label.baseline": kept["label.baseline"].mask(kept["own"].isin(marked), True)}
        )
    return kept.drop(columns="own").reset_index(drop=True)


def _means_over_seeds(trials: pd.DataFrame, records: StudyRecords) -> pd.DataFrame:
    """The metrics of each trial, by its name: means over its training seeds, all its copies, and
    what its evaluations have in common."""
    each = trials[["trial", "evaluation_keys"]].explode("evaluation_keys").rename(columns={"evaluation_keys": "evaluation_key"})
    each = each.merge(_measured(records.evaluations), on="evaluation_key", how="left")
    means = [
        name
        for name in each
        if (name in METRICS or name not in EVALUATIONS.columns)
        and pd.api.types.is_float_dtype(each[name])
    ]
    how = {name: "mean" if name in means else "first" for name in each.columns.drop("trial")}
    counts = trials.set_index("trial")["evaluation_keys"].map(len).astype("Int64")
    copies = each.groupby("trial")["n_copies"].sum(min_count=1)
    return with_bands(each.groupby("trial").agg(how)).assign(n_train_seeds=counts, n_copies=copies)


def _controls(records: StudyRecords) -> pd.DataFrame:
    """One row per evaluation without an adapter, its evaluation values in the columns of the parameters."""
    controls = records.evaluations[records.evaluations["training_key"] == CONTROL]
    return _without_a_trial(controls, records).assign(
        trial="control", state="CONTROL", state_word="-", is_control=True, is_file=False
    )


def _files(records: StudyRecords) -> pd.DataFrame:
    """One row per evaluation of an adapter file that the study did not train, named after the file;
    and of held-out photographs, which nothing has generated."""
    files = records.evaluations[records.evaluations["adapter_file"].notna()]
    photographs = files["training_key"].eq(PHOTOGRAPHS).to_numpy()
    rows = _without_a_trial(files, records).assign(
        trial=list(files["adapter_file"]),
        state="FILE",
        state_word=np.where(photographs, "-", "file"),
        is_control=False,
        is_file=True,
    )
    generated = [name for name in records.parameters if name in rows]
    return rows.assign(**{name: rows[name].where(~photographs) for name in generated})


def _without_a_trial(evaluations: pd.DataFrame, records: StudyRecords) -> pd.DataFrame:
    values = {name: evaluations[f"eval.{name}"] for name in records.parameters if f"eval.{name}" in evaluations}
    known = evaluations[["evaluation_key", "objective"]].assign(**values)
    known = known.assign(evaluation_keys=[(key,) for key in known["evaluation_key"]])
    return known.merge(_measured(evaluations), on="evaluation_key", how="left")


def _measured(evaluations: pd.DataFrame) -> pd.DataFrame:
    """One row per image set: every metric, further metrics too, n and networks."""
    further = [
        name
        for name in evaluations
        if name not in EVALUATIONS.columns and not name.startswith("eval.")
    ]
    own = [name for name in further if name not in _ends(evaluations)]
    return evaluations[
        [
            "evaluation_key",
            *METRICS,
            *COUNTS,
            *own,
            "skipped",
            "perceptual_backbone",
            "pooled_backbone",
        ]
    ]


def _ends(evaluations: pd.DataFrame) -> list[str]:
    """The columns of recorded intervals."""
    metrics = [
        name.removesuffix("_low")
        for name in evaluations
        if name.endswith("_low") and name.removesuffix("_low") in evaluations
    ]
    return [f"{metric}_{end}" for metric in metrics for end in ("low", "high")]


def _intervals(table: pd.DataFrame, records: StudyRecords, *, seed: int) -> pd.DataFrame:
    """METRIC_low and METRIC_high of the table's rows: of LPIPS from the pictures, of others from
    the intervals in the records."""
    images, trainings = (
        image_values(records.images, list(table["evaluation_keys"])),
        trainings_of(table),
    )
    lpips = joint_means(images, trainings, seed=seed)
    found = {"lpips_low": lpips.low, "lpips_high": lpips.high}
    ends = [name for name in _ends(records.evaluations) if name not in found]
    places = _places(table["evaluation_keys"], records.evaluations["evaluation_key"])
    for low, high in zip(ends[::2], ends[1::2], strict=True):
        values, below, above = (
            _by_seed(records.evaluations[name], places)
            for name in (low.removesuffix("_low"), low, high)
        )
        joint = joint_recorded(values, below, above, images, trainings)
        found |= {low: joint.low, high: joint.high}
    return pd.DataFrame(found, index=table.index, dtype=float)


def trainings_of(table: pd.DataFrame) -> list[object]:
    """What each row was trained as, None for a control or a file; rows of equal trainings share
    their adapters."""
    is_trained = ~(table["is_control"] | table["is_file"])
    keys = table["training_key"].where(table["training_key"].notna(), table["trial"])
    return [key if trained else None for key, trained in zip(keys, is_trained, strict=True)]


def _places(keys: pd.Series, known: pd.Series) -> np.ndarray:  # -> (m, s)
    """The rows of the evaluations that each row of the table is of; one past the last where it has
    fewer training seeds."""
    row = {key: i for i, key in enumerate(known)}
    tuples = [own if isinstance(own, tuple) else () for own in keys]
    s = max((len(own) for own in tuples), default=0) or 1
    return np.array(
        [
            [row.get(own[j], len(row)) if j < len(own) else len(row) for j in range(s)]
            for own in tuples
        ],
        dtype=int,
    ).reshape(-1, s)


def _by_seed(column: pd.Series, places: np.ndarray) -> np.ndarray:  # -> (m, s)
    return np.append(column.to_numpy(dtype=float, na_value=math.nan), math.nan)[places]


def _against_baseline(table: pd.DataFrame, records: StudyRecords) -> pd.DataFrame:
    columns = ["vs_baseline", "vs_baseline_low", "vs_baseline_high", "vs_baseline_n"]
    marked = table["label.baseline"].eq(True) if "label.baseline" in table else pd.Series(False, index=table.index)
    marked &= table["evaluation_keys"].notna()
    if not marked.any():
        return pd.DataFrame(
            {**dict.fromkeys(columns[:3], math.nan), columns[3]: 0}, index=table.index
        )
    baseline = int(marked.to_numpy().argmax())
    found = joint_differences(
        image_values(records.images, list(table["evaluation_keys"])), baseline, trainings_of(table)
    )
    is_other = (
        table["evaluation_keys"]
        .map(lambda keys: keys != table["evaluation_keys"].iloc[baseline])
        .to_numpy(dtype=bool)
    )
    rows = {
        name: np.where(is_other, values, math.nan)
        for name, values in zip(columns, (found.mean, found.low, found.high))
    }
    return pd.DataFrame({**rows, columns[3]: np.where(is_other, found.n, 0)}, index=table.index)


def _cell(
    names: dict[str, object], values: pd.Series, metric: str, *, seed: int
) -> dict[str, object]:
    interval = mean_interval(values, seed=seed)
    return {
        **names,
        "n": len(values),
        "best": best_of(values.tolist(), metric),
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
    }
