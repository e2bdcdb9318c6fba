"""Picture grids over two or three parameters: one prompt, one noise seed, a picture per pair of values. grid_sheets.py draws them.

A study that was not a grid has no trial for some pairs, and where it has, other parameters differ: `Grid.varying` names them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.controls import controls_of
from analysis.load import CONTROL, FAILED, StudyRecords
from analysis.pictures import description_of, subject_folder
from analysis.training_images import TrainingImages
from sweep.records import RecordsError

EPOCH = "epoch"
NO_ADAPTER, NO_TRIGGER = "no adapter", "no trigger"


@dataclass(frozen=True)
class GridCell:
    """A picture of a grid and what it is of; `picture` is missing where no trial has these values. `nearest` is its nearest training image,
    where it was asked for and is on this machine: by LPIPS, or by pixels where the records do not name it."""

    picture: Path | None
    trial: str = ""
    lpips: float | None = None
    nearest: Path | None = None
    is_by_pixels: bool = False


@dataclass(frozen=True)
class Grid:
    """One table of pictures per value of z (one where there is no z): `cells[z][row][column]`, rows by y, columns by x."""

    x: str
    y: str
    z: str | None
    x_values: tuple[Any, ...]
    y_values: tuple[tuple[Any, ...], ...]  # per value of z: with the controls' rows last
    z_values: tuple[Any, ...]
    cells: tuple[tuple[tuple[GridCell, ...], ...], ...]
    prompt: str
    seed: int
    varying: tuple[str, ...]
    bare_seed: int | None = None  # of the row `no trigger`: noise derives from a prompt's place among the prompts, so it is seldom `seed`


def grid_of(
    records: StudyRecords, x: str, y: str, z: str | None = None, *, prompt: str | None = None, seed: int | None = None, nearest: bool = False
) -> Grid:
    """The pictures of one prompt and noise seed for every pair of values of `x` and `y`, and every value of `z`.

    `epoch` is an axis like a parameter: the rungs. Elsewhere a trial stands with its best rung. Of several trials with the same values the one
    that agrees with the best trial in most other parameters is shown, then the one with the lowest objective. Rows `no adapter` and
    `no trigger` (of the trials in the last row) follow where the records have such pictures. Default: the first prompt and its first seed. With
    `nearest`, cells name their nearest training images.

    Raises:
        RecordsError: an axis that the study did not search or that is there twice, a prompt or seed that it lacks, or no pictures."""
    axes = [axis for axis in (x, y, z) if axis is not None]
    _check_axes(records, axes)
    rungs = _scored_rungs(records, axes)
    images = records.images[records.images["path"].notna()]
    prompt, seed = _prompt_and_seed(images[images["evaluation_key"].isin(rungs["evaluation_key"])], prompt, seed)
    chosen = _chosen(rungs, axes)
    sets = {key for _, key in chosen.values()} | set(records.evaluations.loc[records.evaluations["training_key"] == CONTROL, "evaluation_key"])
    images = images[images["evaluation_key"].isin(sets)]
    bare = without_trigger(prompt, trigger_of(records), images["prompt"].unique())
    bare_seed = _seed_like(images, prompt, seed, bare) if bare else None
    of_prompt = images["prompt"].eq(prompt) & images["seed"].eq(seed)
    of_bare = images["prompt"].eq(bare) & images["seed"].eq(bare_seed) if bare else False
    place = _Places(records, images[of_prompt | of_bare].drop_duplicates(["evaluation_key", "prompt"]), nearest=nearest)
    x_values = _values_of(rungs[x])
    z_values = _values_of(rungs[z]) if z else (None,)
    rows_of_y = _values_of(rungs[y])
    cells, y_values = [], []
    for value in z_values:
        of_z = {} if z is None else {z: value}
        keys = [[chosen.get(tuple({x: a, y: b, **of_z}[axis] for axis in axes)) for a in x_values] for b in rows_of_y]
        rows = [tuple(place.cell(found, prompt) for found in line) for line in keys]
        names = list(rows_of_y)
        for name, row in (
            (NO_TRIGGER, [place.cell(found, bare) for found in keys[-1]] if bare else []),
            (NO_ADAPTER, [place.control(column, prompt) for column in zip(*keys)]),
        ):
            if any(cell.picture for cell in row):
                rows.append(tuple(row))
                names.append(name)
        cells.append(tuple(rows))
        y_values.append(tuple(names))
    varying = _varying(records, rungs[rungs["evaluation_key"].isin([key for _, key in chosen.values()])], axes)
    return Grid(x, y, z, x_values, tuple(y_values), z_values, tuple(cells), prompt, int(seed), varying, bare_seed)


def without_trigger(prompt: str, trigger: str | None, prompts: Iterable[str]) -> str | None:
    """The one of `prompts` that says the same as `prompt` without the trigger word."""
    if not trigger or trigger not in prompt:
        return None
    bare = _words(prompt.replace(trigger, " "))
    return next((other for other in prompts if trigger not in other and _words(other) == bare), None)


def trigger_of(records: StudyRecords) -> str | None:
    """The subject's trigger word, as far as its folder or the study's description tells."""
    folder = subject_folder(records)
    try:
        return json.loads((folder / "subject.json").read_text(encoding="utf-8"))["trigger"] if folder else None
    except (OSError, ValueError, KeyError, TypeError):
        return description_of(records).get("trigger")


# ---- choice


def _check_axes(records: StudyRecords, axes: list[str]) -> None:
    known = (EPOCH, *records.parameters)
    for axis in axes:
        if axis not in known:
            raise RecordsError(f"An axis is `{EPOCH}` or a parameter that the study searched, but `{axis}` is none of {', '.join(known)}.")
    if len(set(axes)) < len(axes):
        raise RecordsError(f"Every axis is another parameter, but the axes are {', '.join(axes)}. Give different ones to --x, --y, --z.")


def _scored_rungs(records: StudyRecords, axes: list[str]) -> pd.DataFrame:
    """One row per trial, or per trial and rung where `epoch` is an axis, that has an image set: its parameters, objective and set."""
    rungs = records.rungs.assign(evaluation_key=records.rungs["evaluation_keys"].map(lambda keys: keys[0] if keys else None))
    trials = records.trials.loc[records.trials["state"] != FAILED, ["trial", "number", "best_epoch", *records.parameters]]
    rows = rungs.merge(trials, on="trial")
    rows = rows if EPOCH in axes else rows[rows["epoch"].eq(rows["best_epoch"])]
    rows = rows.dropna(subset=["evaluation_key"])
    lists = {axis: rows[axis].map(lambda value: str(value) if isinstance(value, (list, dict)) else value) for axis in axes}
    rows = rows.assign(**lists).dropna(subset=axes)
    best = rows.sort_values(["objective", "number"], kind="stable").head(1)
    others = [name for name in records.parameters if name not in axes]
    agrees = sum((rows[name].astype(str).eq(str(best[name].iloc[0])) for name in others), start=pd.Series(0, rows.index)) if len(best) else 0
    return rows.assign(agrees=agrees).sort_values(["agrees", "objective", "number"], ascending=[False, True, True], kind="stable")


def _prompt_and_seed(images: pd.DataFrame, prompt: str | None, seed: int | None) -> tuple[str, int]:
    if images.empty:
        raise RecordsError("A grid is made of stored pictures, but no scored trial of this study has one. Wait for a rung, or launch it again.")
    first = images.sort_values("index", kind="stable")
    prompts = list(dict.fromkeys(first["prompt"]))
    if prompt is not None and prompt not in prompts:
        raise RecordsError(f"--prompt takes a prompt of the study, but {prompt!r} is none of: {'; '.join(prompts)}")
    prompt = prompts[0] if prompt is None else prompt
    seeds = list(dict.fromkeys(first.loc[first["prompt"] == prompt, "seed"]))
    if seed is not None and seed not in seeds:
        raise RecordsError(f"--seed takes a noise seed of that prompt, but {seed} is none of: {', '.join(map(str, seeds))}")
    return prompt, seeds[0] if seed is None else seed


def _seed_like(images: pd.DataFrame, prompt: str, seed: int, other: str) -> int:
    """The other prompt's seed that stands where this one's does: the same noise where it has it, else its picture of the same number."""
    own, others = (list(dict.fromkeys(images.loc[images["prompt"] == text].sort_values("index", kind="stable")["seed"])) for text in (prompt, other))
    return int(seed if seed in others else others[min(own.index(seed), len(others) - 1)])


def _chosen(rungs: pd.DataFrame, axes: list[str]) -> dict[tuple[Hashable, ...], tuple[str, str]]:
    """Trial and image set by the values of the axes; `rungs` has the preferred ones first."""
    first = rungs.drop_duplicates(axes)
    return {tuple(row[axis] for axis in axes): (row["trial"], row["evaluation_key"]) for row in first.to_dict("records")}


def _words(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _values_of(values: pd.Series) -> tuple[Any, ...]:
    known = values.unique().tolist()
    numbers = all(isinstance(value, (int, float)) for value in known)
    return tuple(sorted(known) if numbers else sorted(known, key=str))


def _varying(records: StudyRecords, chosen: pd.DataFrame, axes: list[str]) -> tuple[str, ...]:
    others = [name for name in records.parameters if name not in axes]
    return tuple(name for name in others if chosen[name].astype(str).nunique() > 1)


class _Places:
    """Where the picture of an image set and prompt lies. `shown`: one row per image set and prompt."""

    def __init__(self, records: StudyRecords, shown: pd.DataFrame, *, nearest: bool) -> None:
        self._folder, self._controls = records.folder, controls_of(records.evaluations)
        self._rows = {(row["evaluation_key"], row["prompt"]): row for row in shown.to_dict("records")}
        self._sets = {key for key, _ in self._rows}
        self._training = TrainingImages(subject_folder(records) if nearest else None)

    def cell(self, found: tuple[str, str] | None, prompt: str | None) -> GridCell:
        trial, key = found or ("", "")
        row = self._rows.get((key, prompt))
        if row is None:
            return GridCell(None)
        recorded = row["nearest_reference"] if isinstance(row["nearest_reference"], str) else None
        nearest = self._training.file_of(recorded or self._training.nearest_by_pixels(self._folder / row["path"]))
        lpips = None if pd.isna(row["lpips"]) else float(row["lpips"])
        return GridCell(self._folder / row["path"], trial, lpips, nearest, nearest is not None and recorded is None)

    def control(self, found: Iterable[tuple[str, str] | None], prompt: str) -> GridCell:
        """A picture without an adapter, made as those of a column were made: the first of them that has such a control."""
        keys = (self._controls.get(pair[1]) for pair in found if pair)
        key = next((key for key in keys if key in self._sets), None)
        return self.cell((NO_ADAPTER, key), prompt) if key else GridCell(None)
