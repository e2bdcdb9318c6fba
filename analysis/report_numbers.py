"""What the report shows, as plain values that json can write: numbers and chosen pictures. report.py makes a page of them.

NaN and infinity become None; a metric that the records lack is None."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.cost import cost, failures
from analysis.grids import control_like
from analysis.importance import ENOUGH_TRIALS, importances_of, main_effects
from analysis.load import DEFAULT_STORAGE, StudyRecords, launches_of
from analysis.pareto import axes_of, front_notes
from analysis.pictures import Thumbnails, description_of, subject_folder
from analysis.stats import paired_difference
from analysis.tables import PAIRED_BY, ranked_trials
from analysis.text import caption_of, notes_of
from sweep.records import RecordsError

TABLE_METRICS = ("objective", "lpips", "fid", "kid", "diversity", "lpips_nearest")
N_RIVALS = 10
N_PICTURE_ROWS = 5
MOST_PICTURES_OF_A_TRIAL = 40
_NAMES = {"lpips": "LPIPS", "fid": "FID", "kid": "KID", "lpips_nearest": "LPIPS, nearest"}


def report_numbers(records: StudyRecords, *, seed: int = 0, thumbnails: Thumbnails | None = None) -> dict[str, Any]:
    """Everything on the page. Intervals are drawn with `seed`."""
    thumbnails = thumbnails or Thumbnails()
    ranked = ranked_trials(records, seed=seed)
    images = dict(tuple(records.images.groupby("evaluation_key"))) if len(records.images) else {}
    best = ranked[ranked["rank_number"].eq(1)]
    chosen = _PictureRows(records, images, thumbnails)
    shown = {"pictures": _first_pictures(ranked, chosen), "extremes": _extremes(best, chosen)}  # before the trials': the budget is theirs first
    given, curves, overrides = _given_by_trial(records), _curves_by_trial(records), _overrides(records)
    commands = {trial: repeat_command(records, own, overrides) for trial, own in given.items() if own}
    trials = [
        _trial(row, records, chosen, command=commands.get(row["trial"]), curve=curves.get(row["trial"], [])) for row in ranked.to_dict("records")
    ]
    return plain(
        {
            "name": records.name,
            "seed": seed,
            "parameters": _given_names(records),
            "metrics": [{"key": key, "name": _NAMES.get(key, key)} for key in TABLE_METRICS if key in ranked and ranked[key].notna().any()],
            "counts": records.trials["state"].value_counts().to_dict(),
            "trials": trials,
            "best": trials[int(best.index[0])]["trial"] if len(best) else None,
            "cannot_tell": _cannot_tell(ranked, images, records, seed=seed),
            "caption": caption_of(ranked) if ranked["n_images"].notna().any() else "",
            **shown,
            **_what_mattered(records, seed=seed),
            "cost": cost(records).to_dict("records") if len(records.trials) else [],
            "failures": failures(records).to_dict("records"),
            "repeat": _repeat(records, overrides),
            "thumbnails": thumbnails.uris,
            "n_left_out": {"budget": thumbnails.n_refused, "missing": thumbnails.n_missing, "images": chosen.n_not_shown},
            "n_images": len(records.images),
        }
    )


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
    return value if isinstance(value, (str, int, float, bool)) else str(value)


# ---- trials


def _given_names(records: StudyRecords) -> list[str]:
    """Labels, but not those that repeat a parameter, then parameters."""
    labels = [name for name in records.labels if name != "label.baseline" and name.removeprefix("label.") not in records.parameters]
    return [*labels, *records.parameters]


def _trial(
    row: Mapping[str, Any], records: StudyRecords, chosen: _PictureRows, *, command: str | None, curve: list[list[float]]
) -> dict[str, Any]:
    ends = [f"{metric}_{end}" for metric in TABLE_METRICS for end in ("low", "high")]
    values = {name: row.get(name) for name in (*TABLE_METRICS, *ends, "lpips_seen", "lpips_unseen", "n_images", "n_copies")}
    words = {name: row.get(name) for name in ("lpips_band", "fid_band", "state", "reason", "training_key")}
    own = ("rank_number", "best_epoch", "epochs", "vs_baseline", "vs_baseline_low", "vs_baseline_high", "vs_baseline_n", "n_train_seeds")
    configuration = {name: row[name] for name in _given_names(records)}
    is_baseline = row.get("label.baseline") is True
    trial = row["trial"] if not row["is_control"] else f"control {row['evaluation_key'][:6]}"
    return {
        "trial": trial,
        "is_control": bool(row["is_control"]),
        "is_baseline": is_baseline,
        **values,
        **words,
        **{name: row.get(name) for name in own},
        "configuration": configuration,
        "curve": curve,
        "images": chosen.of(row["evaluation_keys"], limit=MOST_PICTURES_OF_A_TRIAL),
        "command": command,
    }


def _given_by_trial(records: StudyRecords) -> dict[str, dict[str, Any]]:
    """Each trial's configuration under the names that `--set` takes: what was asked for, not what was reached."""
    columns = records.trials[["trial", *records.parameters]].rename(columns={"epochs_asked": "epochs"})
    return {
        row.pop("trial"): {name: value for name, value in row.items() if isinstance(value, (list, dict)) or not pd.isna(value)}
        for row in columns.to_dict("records")
    }


def _curves_by_trial(records: StudyRecords) -> dict[str, list[list[float]]]:
    """Each trial's [epoch, objective] at its rungs."""
    groups = records.rungs.sort_values("epoch", kind="stable").groupby("trial")
    return {trial: own[["epoch", "objective"]].to_numpy().tolist() for trial, own in groups}


def _cannot_tell(ranked: pd.DataFrame, images: Mapping[Any, pd.DataFrame], records: StudyRecords, *, seed: int) -> list[str]:
    """What a reader may not conclude from the best trial's numbers, a sentence each."""
    scored = ranked[ranked["rank_number"].notna()]
    if scored.empty:
        return []
    best, rivals = scored.iloc[0], scored.iloc[1 : N_RIVALS + 1]
    lines = []
    differences = [_lpips_difference(best["evaluation_keys"], keys, images, seed=seed) for keys in rivals["evaluation_keys"]]
    alike = [name for name, found in zip(rivals["trial"], differences) if found is not None and found.low <= 0 <= found.high]
    compared = sum(found is not None for found in differences)
    if compared:
        which = f": {', '.join(alike)}" if alike else ""
        lines.append(
            f"Of the next {compared} in rank, {len(alike)} cannot be told from {best['trial']} by LPIPS{which}. "
            "Same prompts and noise on both sides; the 95 % interval of the paired difference holds 0."
        )
    if len(scored) > 1:
        lines.append(
            f"{best['trial']} was chosen out of {len(scored)} by the pictures that it is scored by, so its own value flatters it. "
            "Run `sweep confirm` before you quote it: fresh seeds."
        )
    if pd.isna(best["n_train_seeds"]) or best["n_train_seeds"] < 2:
        lines.append("One training seed: the intervals cover the choice of pictures, not the luck of a training. train_seeds=3 would.")
    return [*lines, *notes_of(ranked), *front_notes(records)]


def _lpips_difference(own: Any, other: Any, images: Mapping[Any, pd.DataFrame], *, seed: int) -> Any:
    sides = []
    for keys in (own, other):
        known = [key for key in keys if key in images] if isinstance(keys, tuple) else []
        if not known:
            return None
        sides.append(pd.concat([images[key] for key in known]).groupby(list(PAIRED_BY))["lpips"].mean())
    x, y = sides[0].align(sides[1], join="inner")
    found = paired_difference(x.to_numpy(), y.to_numpy(), seed=seed)
    return None if math.isnan(found.low) else found


def _what_mattered(records: StudyRecords, *, seed: int) -> dict[str, Any]:
    try:
        found = importances_of(records, seed=seed)
        effects = main_effects(records, seed=seed)
    except (RecordsError, ValueError):  # a study in which no trial was scored yet
        return {"importances": [], "effects": [], "enough_trials": ENOUGH_TRIALS}
    return {"importances": found.to_dict("records"), "effects": effects.to_dict("records"), "enough_trials": ENOUGH_TRIALS}


def _repeat(records: StudyRecords, overrides: Mapping[str, str]) -> dict[str, Any]:
    described = description_of(records)
    versions = [value for value in records.evaluations["versions"] if isinstance(value, dict)]
    devices = sorted({str(device) for device in records.evaluations["device"].dropna()})
    keys = ("subject", "sampler", "samples", "study_seed", "train_seeds", "early_stopping", "scale")
    known = {name: described[name] for name in keys if described.get(name) not in (None, "")}
    known |= {"pareto": ", ".join(axes_of(records))} if axes_of(records) else {}
    launch = f"{_command(records, 'launch', overrides)} --name {shlex.quote(records.name)}"
    return {"launch": launch, "study": known, "versions": versions[-1] if versions else {}, "devices": devices}


# ---- pictures


class _PictureRows:
    """Pictures of image sets as small values: thumbnail numbers, prompts, seeds, LPIPS, and the nearest training image."""

    def __init__(self, records: StudyRecords, images: Mapping[Any, pd.DataFrame], thumbnails: Thumbnails) -> None:
        self.records, self._folder, self._subject = records, records.folder, subject_folder(records)
        self._images, self._thumbnails = images, thumbnails
        self.n_not_shown = 0

    def frame(self, keys: Any) -> pd.DataFrame | None:
        """The images of the first training seed, where there are any."""
        return next((self._images[key] for key in keys if key in self._images), None) if isinstance(keys, tuple) else None

    def of(self, keys: Any, *, limit: int) -> list[dict[str, Any]]:
        frame = self.frame(keys)
        if frame is None:
            return []
        pictures = [self.picture(row) for row in frame.head(limit).to_dict("records")]
        shown = [picture for picture in pictures if picture["at"] is not None]
        self.n_not_shown += len(frame) - len(shown)
        return shown

    def picture(self, row: Mapping[str, Any], *, nearest: bool = False) -> dict[str, Any]:
        path = row["path"]
        number = self._thumbnails.number_of(self._folder / path) if isinstance(path, str) and path else None
        shown = {"at": number, "prompt": row["prompt"], "seed": str(row["seed"]), "lpips": row["lpips"], "nearest": row["nearest_reference"]}
        if nearest and self._subject is not None and isinstance(row["nearest_reference"], str):
            shown["nearest_at"] = self._thumbnails.number_of(self._subject / row["nearest_reference"])
        return {**shown, "nearest_lpips": row["lpips_nearest"], "is_copy": row["is_copy"] is True, "seen": row["seen"]}


def _first_pictures(ranked: pd.DataFrame, chosen: _PictureRows) -> list[dict[str, Any]]:
    """One row per trial: no adapter, the baseline, then the best; a picture per prompt, all of one seed where the set has it."""
    controls = ranked[ranked["is_control"]]
    baseline = ranked[ranked["label.baseline"].eq(True)] if "label.baseline" in ranked else ranked.iloc[:0]
    best = ranked[ranked["rank_number"].notna()].head(N_PICTURE_ROWS)
    keys = best["evaluation_keys"].iloc[0] if len(best) else None
    like = control_like(chosen.records, keys[0]) if isinstance(keys, tuple) else None  # one made otherwise would compare two things at once
    rows = pd.concat([controls[controls["evaluation_key"].eq(like)], baseline, best]).drop_duplicates("trial")
    found = []
    for row in rows.to_dict("records"):
        frame = chosen.frame(row["evaluation_keys"])
        if frame is not None:
            name = "No adapter" if row["is_control"] else "Baseline" if row.get("label.baseline") is True else f"Rank {row['rank_number']}"
            first = frame.drop_duplicates("prompt").to_dict("records")
            pictures = [chosen.picture(image) for image in first]
            found.append({"name": name, "trial": None if row["is_control"] else row["trial"], "images": pictures})
    return found


def _extremes(best: pd.DataFrame, chosen: _PictureRows) -> dict[str, list[dict[str, Any]]]:
    """The four pictures of the best trial with the lowest LPIPS, and those with the highest, each with its nearest training image."""
    frame = chosen.frame(best.iloc[0]["evaluation_keys"]) if len(best) else None
    if frame is None:
        return {"best": [], "worst": []}
    ordered = frame.dropna(subset=["lpips"]).sort_values("lpips", kind="stable")
    n = min(4, len(ordered) // 2)
    ends = {"best": ordered.head(n), "worst": ordered.tail(n).iloc[::-1]}
    return {end: [chosen.picture(row, nearest=True) for row in rows.to_dict("records")] for end, rows in ends.items()}
