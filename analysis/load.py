"""The records of one study as frames: json columns spread into columns of their own. Reads; computes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.controls import CONTROL
from analysis.prompt_groups import with_prompt_groups
from sweep.records import EVALUATIONS, TRIALS, Place, Records, RecordsError, as_rows, place

FAILED = "FAIL"
"""The state of trials that are not ranked, whatever they had scored before they failed."""

DEFAULT_STORAGE = "sweeps"


@dataclass(frozen=True)
class StudyRecords:
    """The frames of one study. `parameters` and `labels` name the columns of `trials` that came from its configurations."""

    name: str
    folder: Place
    trials: pd.DataFrame  # one row per trial: its latest state, parameters and labels as columns
    evaluations: pd.DataFrame  # one row per image set, its EvalConfig as columns `eval.*`
    images: pd.DataFrame  # one row per generated image
    rungs: pd.DataFrame  # one row per trial and rung: trial, epoch, objective, evaluation_keys (a tuple: one per training seed)
    parameters: tuple[str, ...]
    labels: tuple[str, ...]

    def output_folder(self, word: str) -> Path:
        """Where a report of that name is written if nobody says: in the study's folder or, where that is in a store, in this one."""
        return self.folder / word if isinstance(self.folder, Path) else Path(f"{self.name}-{word}")


def load_study_records(name_or_dir: str | Place, storage: str | Place = DEFAULT_STORAGE, *, skip_damaged: bool = False) -> StudyRecords:
    """A study's records, by its folder or by its name in the storage place. A study that is still going on is fine.

    Raises:
        RecordsError: there are no records, or a part of them is damaged."""
    folder = _folder_of(place(name_or_dir), place(storage))
    records = Records(folder, skip_damaged=skip_damaged)
    rows = as_rows(records.latest_trials(), TRIALS, shared=True)
    parameters, labels = _names_in(rows, "configuration"), _names_in(rows, "labels")
    evaluations = _evaluation_frame(as_rows(records.evaluations(), EVALUATIONS, shared=True))
    evaluations, images = with_prompt_groups(evaluations, records.images(), _best_keys(rows))
    return StudyRecords(
        name=folder.name,
        folder=folder,
        trials=_trial_frame(rows, parameters, labels),
        evaluations=evaluations,
        images=images,
        rungs=_rung_frame(rows),
        parameters=tuple(_column_of(name) for name in parameters),
        labels=tuple(f"label.{name}" for name in labels),
    )


def launches_of(records: StudyRecords) -> dict[str, Any]:
    """What launches.json beside the records says: `request`, as the study was launched last, and `launches`; nothing where it is missing or
    damaged, of which `sweep status` tells."""
    try:
        said = json.loads((records.folder / "launches.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _folder_of(name_or_dir: Place, storage: Place) -> Place:
    for folder in (name_or_dir, *([storage / name_or_dir] if isinstance(name_or_dir, Path) else [])):
        if (folder / "records").is_dir():
            return folder.resolve()
    known = sorted(path.parent.name for path in storage.glob("*/records"))
    there = f"{storage} holds {', '.join(known)}" if known else f"{storage} holds no study"
    raise RecordsError(
        f"A study is named by its folder, or by its name in the storage, but there is no {name_or_dir}; {there}. Use --storage DIR."
    )


def _names_in(rows: list[dict[str, Any]], column: str) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row[column] or {}))


def _column_of(parameter: str) -> str:
    # `epochs` of a configuration is what was asked for; the column of that name is what was reached.
    return f"{parameter}_asked" if parameter in TRIALS.columns else parameter


def _trial_frame(rows: list[dict[str, Any]], parameters: list[str], labels: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(TRIALS.columns))
    given = {_column_of(name): [(row["configuration"] or {}).get(name) for row in rows] for name in parameters}
    named = {f"label.{name}": [(row["labels"] or {}).get(name) for row in rows] for name in labels}
    spread = pd.DataFrame({name: _column(values) for name, values in {**given, **named}.items()}, index=frame.index)
    numbers = {name: pd.to_numeric(frame[name]).astype("Int64") for name in ("number", "epochs", "best_epoch", "shared_epochs")}
    return pd.concat([frame.assign(**numbers, objective=pd.to_numeric(frame["objective"])), spread], axis=1)


def _column(values: list[Any]) -> pd.Series:
    """The values as a column in which whole numbers stay whole where some are missing."""
    known = [value for value in values if value is not None]
    whole = bool(known) and all(isinstance(value, int) and not isinstance(value, bool) for value in known)
    return pd.Series(values, dtype="Int64" if whole else None if known else object)


def _evaluation_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(EVALUATIONS.columns))
    configurations = pd.DataFrame([row["configuration"] or {} for row in rows], index=frame.index).add_prefix("eval.")
    further = pd.DataFrame([row["further_metrics"] or {} for row in rows], index=frame.index)
    dtypes = {"number": "float64", "integer": "Int64"}
    typed = {column.name: dtypes[column.dtype] for column in EVALUATIONS.fields if column.dtype in dtypes}
    numbers = {name: pd.to_numeric(frame[name]).astype(dtype) for name, dtype in typed.items()}
    return pd.concat([frame.assign(**numbers), configurations, further, _interval_columns(rows, frame.index)], axis=1)


def _interval_columns(rows: list[dict[str, Any]], index: pd.Index) -> pd.DataFrame:
    """For every metric with an interval in the records the columns METRIC_low and METRIC_high."""
    bounds = [
        {f"{name}_{end}": bound for name, interval in (row["intervals"] or {}).items() for end, bound in zip(("low", "high"), interval[:2])}
        for row in rows
    ]
    return pd.DataFrame(bounds, index=index, dtype=float)


def _best_keys(rows: list[dict[str, Any]]) -> list[str]:
    """An evaluation of each trial's best rung, the best trial's first."""
    ranked = sorted((row for row in rows if row["objective"] is not None and row["state"] != FAILED), key=lambda row: row["objective"])
    return [key for row in ranked for epoch, _, key, *_ in row["rung_values"] or [] if epoch == row["best_epoch"]]


def _rung_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    values = [(row["trial"], epoch, objective, tuple(keys)) for row in rows for epoch, objective, *keys in row["rung_values"] or []]
    frame = pd.DataFrame(values, columns=["trial", "epoch", "objective", "evaluation_keys"])
    return frame.assign(objective=pd.to_numeric(frame["objective"]))
