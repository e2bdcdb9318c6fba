"""Several studies side by side: the best of each, what can be compared between them, and what cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.cost import failures
from analysis.image_values import image_values
from analysis.joint import differences_with, seeds_of_means
from analysis.load import StudyRecords
from analysis.pictures import description_of
from analysis.resampling import holm
from analysis.tables import best_evaluations, ranked_trials, trainings_of
from sweep.records import Component, RecordsError

UNKNOWN = "?"
"""The subject of a study that was copied without its study.json."""

PROTOCOL = ("perceptual_backbone", "pooled_backbone", "n_images", "n_references")


def compare_studies(studies: Sequence[StudyRecords], *, seed: int = 0) -> pd.DataFrame:
    """One row per study, in the order given: its trials, the one with the lowest objective, that one's metrics with n and networks, and
    `vs_first`, its LPIPS less that of the first study's best over n common prompts and noises, with a 95 % interval and `p_holm`.

    Without common pictures, over another network or of another subject, differences are missing.
    Each best was picked from its own study: see `optimism_of_the_best`. Student's t of the pairs,
    and of what training seeds do in either study where it has several (joint.py); p is
    Holm-corrected for the studies. `seed` draws the intervals of `lpips`.

    Raises:
        RecordsError: less than two studies."""
    if len(studies) < 2:
        raise RecordsError(f"A comparison is of two studies or more, but {len(studies)} was given.")
    bests = [_best(records, seed=seed) for records in studies]
    subjects = subjects_of(studies)
    rows = [_row(*own) for own in zip(studies, subjects, bests, strict=True)]
    table = pd.DataFrame(rows)
    other = [UNKNOWN not in (own, subjects[0]) and own != subjects[0] for own in subjects]
    comparable = [None if is_other else best for best, is_other in zip(bests, other, strict=True)]
    differences = pd.DataFrame([_difference(studies, comparable, i) for i in range(len(studies))])
    return pd.concat([table, differences.assign(p_holm=holm(differences["p"])).drop(columns="p")], axis=1)


def ranked_together(studies: Sequence[StudyRecords], *, seed: int = 0) -> pd.DataFrame:
    """One row per trial of any of the studies, as `ranked_trials` gives it, with its `study`, the lowest objective first.

    A rank across studies means something only where subject, objective and networks are the same:
    `subject` and `objective_formula` stand beside it."""
    frames = []
    for records, subject in zip(studies, subjects_of(studies), strict=True):
        ranked = ranked_trials(records, seed=seed).query("rank_number.notna()")
        formula = records.trials.set_index("trial")["objective_formula"]
        frames.append(
            ranked.drop(columns="rank_number").assign(
                study=records.name, subject=subject, objective_formula=ranked["trial"].map(formula)
            )
        )
    together = pd.concat(frames, ignore_index=True).sort_values(["objective", "study"], kind="stable", ignore_index=True)
    first = ["study", "subject", "trial", "objective", "objective_formula"]
    return together[[*first, *together.columns.drop(first)]]


def subjects_of(studies: Sequence[StudyRecords]) -> list[str]:
    """The subject of each study, by name; where one name stands for several sets of images, by
    these too; UNKNOWN where it is not known."""
    described = [description_of(records) for records in studies]
    names = [str(one.get("subject") or UNKNOWN) for one in described]
    images = [
        str((one.get("content") or {}).get(f"images of {name}", ""))
        for one, name in zip(described, names, strict=True)
    ]
    changed = {
        name
        for name in names
        if len({i for n, i in zip(names, images, strict=True) if n == name and i}) > 1
    }
    return [
        f"{name} (images {i[:8] or UNKNOWN})" if name in changed else name
        for name, i in zip(names, images, strict=True)
    ]


def protocol_notes(studies: Sequence[StudyRecords]) -> list[str]:
    """What a reader must know before comparing values of these studies: other subjects,
    objectives, and ways to generate that neither study searched."""
    names, subjects = [records.name for records in studies], subjects_of(studies)
    notes = []
    if len(set(subjects) - {UNKNOWN}) > 1:
        notes.append(
            f"No value can be compared: {_listed('the subject', names, subjects)}. The subjects have other images."
        )
    elif UNKNOWN in subjects:
        unknown = [
            name for name, subject in zip(names, subjects, strict=True) if subject == UNKNOWN
        ]
        notes.append(
            f"Compare values of one subject only: {', '.join(unknown)} has no study.json, which names it."
        )
    formulas = [
        "; ".join(sorted(records.trials["objective_formula"].dropna().unique()))
        for records in studies
    ]
    if len({formula for formula in formulas if formula}) > 1:
        notes.append(f"objective cannot be compared: {_listed('it', names, formulas)}.")
    return notes + _evaluation_notes(studies)


def _evaluation_notes(studies: Sequence[StudyRecords]) -> list[str]:
    columns = dict.fromkeys(
        name for records in studies for name in records.evaluations if name.startswith("eval.")
    )
    differing = []
    for column in columns:
        name = column.removeprefix("eval.")
        is_searched = any(name in records.parameters for records in studies)
        values = [_values_of(records, column) for records in studies]
        if not is_searched and len(set(values) - {UNKNOWN}) > 1:
            differing.append(
                name
                if name == "prompts"
                else _listed(name, [records.name for records in studies], values)
            )
    return [f"Pictures were generated in other ways: {'; '.join(differing)}."] if differing else []


def _values_of(records: StudyRecords, column: str) -> str:
    if column not in records.evaluations:
        return UNKNOWN
    return ", ".join(sorted(records.evaluations[column].map(str).unique()))


def _listed(what: str, names: Sequence[str], values: Sequence[str]) -> str:
    return f"{what} is " + ", ".join(
        f"{value or '-'} in {name}" for name, value in zip(names, values, strict=True)
    )


def comparison_notes(table: pd.DataFrame) -> list[str]:
    """What a reader must know before comparing the rows of `compare_studies`: networks and numbers
    of pictures that differ, and of which studies `vs_first` knows no scatter of training seeds."""
    names = {"perceptual_backbone": "LPIPS", "pooled_backbone": "FID and KID", "n_images": "FID", "n_references": "FID"}
    differing = {name: table[name].dropna().unique() for name in PROTOCOL if table[name].dropna().nunique() > 1}
    notes = [f"{names[name]} cannot be compared: {name} is {', '.join(map(str, values))}." for name, values in differing.items()]
    compared = table[table["vs_first"].notna() | (table.index == 0)]
    of_one_seed = compared.loc[compared["n_train_seeds"] == 1, "study"].tolist()
    if len(compared) > 1 and of_one_seed:
        notes.append(
            "vs_first does not cover what another training seed would do in "
            f"{' and '.join(of_one_seed)}: one seed does not tell how far seeds scatter."
        )
    return notes


def _best(records: StudyRecords, *, seed: int) -> pd.Series | None:
    ranked = ranked_trials(records, seed=seed).query("rank_number == 1")
    return ranked.iloc[0] if len(ranked) else None


def _row(records: StudyRecords, subject: str, best: pd.Series | None) -> dict[str, object]:
    counts = {
        "study": records.name,
        "subject": subject,
        "n_trials": len(records.trials),
        "n_failed": int(failures(records)["n"].sum()),
    }
    columns = ("trial", "best_epoch", "n_train_seeds", "objective", "lpips", "lpips_low", "lpips_high", "fid", "kid", *PROTOCOL)
    given = None if best is None else " ".join(f"{name}={best[name]}" for name in records.parameters if not _is_missing(best[name]))
    return {**counts, **{name: None if best is None else best[name] for name in columns}, "configuration": given}


def _is_missing(value: object) -> bool:
    return not isinstance(value, (list, dict, tuple)) and bool(pd.isna(value))


def _difference(
    studies: Sequence[StudyRecords], bests: Sequence[pd.Series | None], i: int
) -> dict[str, float]:
    nothing = {"vs_first": math.nan, "vs_first_low": math.nan, "vs_first_high": math.nan, "vs_first_n": 0, "p": math.nan}
    first, own = bests[0], bests[i]
    if i == 0 or first is None or own is None or first["perceptual_backbone"] != own["perceptual_backbone"]:
        return nothing
    if not (_has_keys(first) and _has_keys(own)):
        return nothing
    # The same image set may be in both studies under one key: of either, the rows of its own study.
    keys = [tuple(f"{k}/{key}" for key in bests[k]["evaluation_keys"]) for k in (0, i)]
    sides = []
    for k in (0, i):
        images = studies[k].images
        images = images[images["evaluation_key"].isin(bests[k]["evaluation_keys"])]
        sides.append(images.assign(evaluation_key=f"{k}/" + images["evaluation_key"]))
    seeds = (
        []
        if _is_one_training(first, own)
        else [part for k in (0, i) for part in _seeds_of(studies[k], bests[k]["trial"])]
    )
    found = differences_with(image_values(pd.concat(sides, ignore_index=True), keys), 0, seeds)
    if not found.n[1]:
        return nothing
    return {
        "vs_first": found.mean[1],
        "vs_first_low": found.low[1],
        "vs_first_high": found.high[1],
        "vs_first_n": int(found.n[1]),
        "p": found.p[1],
    }


def _seeds_of(records: StudyRecords, trial: str) -> list[Component]:
    """What training seeds do to the mean of this trial, by all trials of its study; two rows, as
    the difference to the first has them."""
    trials = best_evaluations(records)
    parts = seeds_of_means(
        image_values(records.images, list(trials["evaluation_keys"])), trainings_of(trials)
    )
    row = int(trials["trial"].eq(trial).to_numpy().argmax())
    return [
        Component(np.array([0.0, part.variance[row]]), np.full(2, part.freedom[row]))
        for part in parts
    ]


def _is_one_training(first: pd.Series, own: pd.Series) -> bool:
    """Whether both are the same adapters: then seeds cancel."""
    return (
        isinstance(own["training_key"], str)
        and first["training_key"] == own["training_key"]
        and first["n_train_seeds"] == own["n_train_seeds"]
    )


def _has_keys(best: pd.Series) -> bool:
    return isinstance(best["evaluation_keys"], tuple)
