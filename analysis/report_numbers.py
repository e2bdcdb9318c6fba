"""What the report shows, as plain values that json can write; its pictures are report_pictures.py's. report.py makes a page of them.

Of a trial, what the records lack (NaN and infinity too) is left out."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.cost import cost, failures
from analysis.image_sets import ImageSets
from analysis.importance import ENOUGH_TRIALS, importances_of, levels_of, main_effects, order_note
from analysis.load import DEFAULT_STORAGE, StudyRecords, launches_of
from analysis.pareto import axes_of, front_notes
from analysis.pictures import Thumbnails, description_of
from analysis.photographs import photograph_notes
from analysis.prompt_groups import label_notes
from analysis.report_pictures import ReportPictures
from analysis.selection import best_set
from analysis.tables import ranked_trials
from analysis.text import caption_of, notes_of
from sweep.records import NO_ADAPTER, SIMILARITIES, RecordsError, more_is_better, state_word

TABLE_METRICS = ("objective", "lpips", "fid", "kid", "diversity", "lpips_nearest", *SIMILARITIES)
N_RIVALS = 10
DIGITS = 9
"""Of numbers on the page: more would be a third of a large page, and nobody sees them."""

_NAMES = {"lpips": "LPIPS", "fid": "FID", "kid": "KID", "lpips_nearest": "LPIPS, nearest"}


def report_numbers(records: StudyRecords, *, seed: int = 0, thumbnails: Thumbnails | None = None) -> dict[str, Any]:
    """Everything on the page. Intervals are drawn with `seed`."""
    thumbnails = thumbnails or Thumbnails()
    ranked, sets = ranked_trials(records, seed=seed), ImageSets(records.images)
    best = ranked[ranked["rank_number"].eq(1)]
    pictures = ReportPictures(records, sets, ranked, thumbnails)
    given, rungs, overrides = _given_by_trial(records), _rungs_by_trial(records), _overrides(records)
    commands = {trial: repeat_command(records, own, overrides) for trial, own in given.items() if own}
    axes, places = _axes(ranked, _given_names(records))
    trials = [
        _trial(row, records, command=commands.get(row["trial"]), rungs=rungs.get(row["trial"], []), at=at)
        for row, at in zip(ranked.to_dict("records"), places, strict=True)
    ]
    shown = plain(
        {
            "name": records.name,
            "seed": seed,
            "parameters": _given_names(records),
            "metrics": [
                _metric(key) for key in TABLE_METRICS if key in ranked and ranked[key].notna().any()
            ],
            "n_trials": len(records.trials),
            "counts": _counts(records),
            "best": trials[int(best.index[0])]["trial"] if len(best) else None,
            "axes": axes,
            "cannot_tell": _cannot_tell(ranked, records),
            "caption": caption_of(ranked) if ranked["n_images"].notna().any() else "",
            "first": pictures.first,
            "extremes": pictures.extremes,
            "pictures": pictures.numbers(),
            **_what_mattered(records, seed=seed),
            "cost": cost(records).to_dict("records") if len(records.trials) else [],
            "failures": failures(records).to_dict("records"),
            "repeat": _repeat(records, overrides),
            "thumbnails": thumbnails.uris,
            "n_left_out": {
                "budget": thumbnails.n_refused,
                "missing": thumbnails.n_missing,
                "images": pictures.n_not_shown,
            },
            "n_images": len(records.images),
        }
    )
    return {**shown, "trials": trials}


def repeat_command(records: StudyRecords, configuration: Mapping[str, Any], overrides: Mapping[str, str]) -> str:
    """The command line that trains and scores this configuration again, with the `--set` texts of the last launch, quoted for a shell."""
    return _command(records, "trial", {**overrides, **configuration})


def _command(records: StudyRecords, command: str, values: Mapping[str, Any]) -> str:
    # From beside the storage's folder; a page that is sent around names no folders above it.
    storage = records.folder.parent.name
    file = Path(storage) / records.name / "study.py" if isinstance(records.folder, Path) else Path("study.py")
    where = [] if storage == DEFAULT_STORAGE or not isinstance(records.folder, Path) else [f"--storage {shlex.quote(storage)}"]
    sets = [f"--set {shlex.quote(f'{name}={value}')}" for name, value in values.items()]
    return " ".join([f"python -m sweep {command}", shlex.quote(str(file)), *where, *sets])


def _overrides(records: StudyRecords) -> dict[str, str]:
    """The `--set` texts of the last launch but for the study's name and length; none where nothing is known of it."""
    try:
        texts = dict(launches_of(records)["request"]["overrides"])
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: text for name, text in texts.items() if name not in ("name", "samples")}


def plain(value: Any) -> Any:
    """The value in json's own types."""
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    return value if isinstance(value, (str, int, float, bool)) else str(value)


# ---- trials


def _metric(key: str) -> dict[str, Any]:
    """A metric as the page sorts, labels and compares it."""
    return {"key": key, "name": _NAMES.get(key, key), "more_is_better": more_is_better(key)}


def _given_names(records: StudyRecords) -> list[str]:
    """Labels, but not those that repeat a parameter, then parameters."""
    labels = [name for name in records.labels if name != "label.baseline" and name.removeprefix("label.") not in records.parameters]
    return [*labels, *records.parameters]


def _trial(
    row: Mapping[str, Any], records: StudyRecords, *, command: str | None, rungs: list[list[Any]], at: list[int | None]
) -> dict[str, Any]:
    """The row of a trial as the page wants it: `rungs` are [epoch, objective, image set], `at` its level on each of the axes."""
    ends = [f"{metric}_{end}" for metric in TABLE_METRICS for end in ("low", "high")]
    values = {name: row.get(name) for name in (*TABLE_METRICS, *ends, "lpips_seen", "lpips_unseen", "n_images", "n_copies")}
    words = {name: row.get(name) for name in ("lpips_band", "fid_band", "reason", "training_key")}
    words["state"] = row["state_word"]
    own = ("rank_number", "best_epoch", "epochs", "vs_baseline", "vs_baseline_low", "vs_baseline_high", "vs_baseline_n", "n_train_seeds")
    configuration = {name: row[name] for name in _given_names(records)}
    is_baseline = row.get("label.baseline") is True
    trial = row["trial"] if not row["is_control"] else f"{NO_ADAPTER} {row['evaluation_key'][:6]}"
    keys = row["evaluation_keys"] if isinstance(row["evaluation_keys"], tuple) else ()
    found = {
        "trial": trial,
        "is_control": bool(row["is_control"]),
        "is_trial": not row["is_control"] and not row["is_file"],
        "is_baseline": is_baseline,
        **values,
        **words,
        **{name: row.get(name) for name in own},
        "configuration": plain(configuration),
        "rungs": rungs,
        "set": keys[0] if keys else None,
        "at": at,
        "command": command,
    }
    return {name: value for name, value in plain(found).items() if value is not None}


def _axes(ranked: pd.DataFrame, names: list[str]) -> tuple[list[dict[str, Any]], list[list[int | None]]]:
    """What differs between trials in rank, each parameter as an axis of ordered levels (quarters of a continuous one: `is_cut`), and the
    levels of every row of the table, None off the axis."""
    scored = ranked[ranked["rank_number"].notna()]
    axes, columns = [], []
    for name in names:
        levels = levels_of(scored[name].convert_dtypes())
        if len(levels.cat.categories) < 2:
            continue
        is_number = pd.api.types.is_numeric_dtype(scored[name].convert_dtypes()) and not pd.api.types.is_bool_dtype(scored[name].convert_dtypes())
        is_cut = is_number and scored[name].nunique() > len(levels.cat.categories)
        axes.append({"name": name, "levels": [str(level) for level in levels.cat.categories], "is_cut": is_cut})
        columns.append(levels.cat.codes.reindex(ranked.index).astype("Int64").where(lambda codes: codes >= 0))
    places = pd.DataFrame(dict(enumerate(columns)), index=ranked.index).astype(object).to_numpy().tolist() if axes else [[]] * len(ranked)
    return axes, places


def _given_by_trial(records: StudyRecords) -> dict[str, dict[str, Any]]:
    """Each trial's configuration under the names that `--set` takes: what was asked for, not what was reached."""
    columns = records.trials[["trial", *records.parameters]].rename(columns={"epochs_asked": "epochs"})
    return {
        row.pop("trial"): {name: value for name, value in row.items() if isinstance(value, (list, dict)) or not pd.isna(value)}
        for row in columns.to_dict("records")
    }


def _counts(records: StudyRecords) -> dict[str, int]:
    """The trials by how they are called."""
    states = zip(records.trials["state"], records.trials["cause"], strict=True)
    return dict(Counter(state_word(state, cause) for state, cause in states))


def _rungs_by_trial(records: StudyRecords) -> dict[str, list[list[Any]]]:
    """Each trial's [epoch, objective, image set of the first training seed] at its rungs."""
    rungs = records.rungs.sort_values("epoch", kind="stable")
    keys = [own[0] if own else None for own in rungs["evaluation_keys"]]
    found: dict[str, list[list[Any]]] = {}
    for trial, *rung in zip(rungs["trial"], rungs["epoch"].tolist(), rungs["objective"].tolist(), keys):
        found.setdefault(trial, []).append(rung)
    return found


def _cannot_tell(ranked: pd.DataFrame, records: StudyRecords) -> list[str]:
    """What a reader may not conclude from the best trial's numbers, a sentence each."""
    scored = ranked[ranked["rank_number"].notna()]
    if scored.empty:
        return []
    best, rivals = scored.iloc[0], scored.iloc[1 : N_RIVALS + 1]
    lines = _verdicts(
        best["trial"],
        rivals["trial"].tolist(),
        best_set(records),
        by_seeds=scored["n_train_seeds"].max() > 1,
    )
    if len(scored) > 1:
        lines.append(
            f"{best['trial']} was chosen out of {len(scored)} by the pictures that it is scored by, so its own value flatters it. "
            "Run `sweep confirm` before you quote it: fresh seeds."
        )
    if pd.isna(best["n_train_seeds"]) or best["n_train_seeds"] < 2:
        lines.append("One training seed: the intervals cover the choice of pictures, not the luck of a training. train_seeds=3 would.")
    return [
        *lines,
        *notes_of(ranked),
        *front_notes(records),
        *label_notes(records.name, records.evaluations),
        *photograph_notes(records, ranked),
    ]


def _verdicts(best: str, rivals: list[str], found: pd.DataFrame, *, by_seeds: bool) -> list[str]:
    """How the best trial stands by LPIPS against the next in rank: who is closer than it comes
    first. `found` is what `best_set` says."""
    by_trial = found.set_index("trial")
    compared = [
        name for name in found["trial"] if name in rivals and by_trial.loc[name, "n"] > 1
    ]  # the lowest LPIPS first
    if best not in by_trial.index or not compared:
        return []
    alike = [name for name in compared if by_trial.loc[name, "in_set"]]
    how = "Same prompts and noise on both sides" + (
        ", and the same training seeds" if by_seeds else ""
    )
    lines = []
    if not by_trial.loc[best, "in_set"]:
        first = found["trial"].iloc[0]
        lines.append(
            f"{first} is closer to the subject by LPIPS than {best}, which the objective puts "
            f"first (p {_p_text(by_trial.loc[best, 'p_best'])}, corrected for "
            f"{len(found) - 1} comparisons). {how}."
        )
        told = f"can be the closest by LPIPS in place of {first}"
        others = [name for name in alike if name != first]
        which = f": {', '.join(others)}" if others else ""
        return [*lines, f"Of the next {len(compared)} in rank, {len(others)} {told}{which}."]
    which = f": {', '.join(alike)}" if alike else ""
    return [
        f"Of the next {len(compared)} in rank, {len(alike)} cannot be told from {best} by "
        f"LPIPS{which}. "
        f"{how}; 95 %, corrected for {len(found) - 1} comparisons."
    ]


def _p_text(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else "below 0.0001"


def _what_mattered(records: StudyRecords, *, seed: int) -> dict[str, Any]:
    try:
        found = importances_of(records, seed=seed)
        effects = main_effects(records, seed=seed)
    except (RecordsError, ValueError):  # a study in which no trial was scored yet
        return {
            "importances": [],
            "order_note": None,
            "effects": [],
            "enough_trials": ENOUGH_TRIALS,
        }
    return {
        "importances": found.to_dict("records"),
        "order_note": order_note(found),
        "effects": effects.to_dict("records"),
        "enough_trials": ENOUGH_TRIALS,
    }


def _repeat(records: StudyRecords, overrides: Mapping[str, str]) -> dict[str, Any]:
    described = description_of(records)
    versions = [value for value in records.evaluations["versions"] if isinstance(value, dict)]
    devices = sorted({str(device) for device in records.evaluations["device"].dropna()})
    keys = ("subject", "sampler", "samples", "study_seed", "train_seeds", "early_stopping", "scale")
    known = {name: described[name] for name in keys if described.get(name) not in (None, "")}
    known |= {"pareto": ", ".join(axes_of(records))} if axes_of(records) else {}
    launch = f"{_command(records, 'launch', overrides)} --name {shlex.quote(records.name)}"
    return {"launch": launch, "study": known, "versions": versions[-1] if versions else {}, "devices": devices}
