"""Picture grids over two or three parameters: one prompt, one noise seed, a picture per pair of values. Choice first, then ink.

A study that was not a grid has no trial for some pairs, and where it has, other parameters differ: `Grid.varying` names them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageDraw, ImageFont, ImageOps

from analysis.load import CONTROL, FAILED, StudyRecords
from analysis.pictures import description_of, subject_folder
from sweep.records import RecordsError

EPOCH = "epoch"
NO_ADAPTER, NO_TRIGGER = "no adapter", "no trigger"
CELL_PIXELS = 160
_GAP, _LINE, _SIDE, _TEXT = 6, 16, 112, 12


@dataclass(frozen=True)
class GridCell:
    """A picture of a grid and what it is of; `picture` is missing where no trial has these values."""

    picture: Path | None
    trial: str = ""
    lpips: float | None = None
    nearest: Path | None = None


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


def grid_of(records: StudyRecords, x: str, y: str, z: str | None = None, *, prompt: str | None = None, seed: int | None = None) -> Grid:
    """The pictures of one prompt and noise seed for every pair of values of `x` and `y`, and every value of `z`.

    `epoch` is an axis like a parameter: the rungs. Elsewhere a trial stands with its best rung. Of several trials with the same values the one
    that agrees with the best trial in most other parameters is shown, then the one with the lowest objective. Rows `no adapter` and
    `no trigger` follow where the records have such pictures. Default: the first prompt and its first seed.

    Raises:
        RecordsError: an axis that the study did not search or that is there twice, a prompt or seed that it lacks, or no pictures."""
    axes = [axis for axis in (x, y, z) if axis is not None]
    _check_axes(records, axes)
    rungs = _scored_rungs(records, axes)
    images = records.images[records.images["path"].notna()]
    prompt, seed = _prompt_and_seed(images[images["evaluation_key"].isin(rungs["evaluation_key"])], prompt, seed)
    shown = images[images["seed"] == seed].drop_duplicates(["evaluation_key", "prompt"])
    by_set = {key: group.set_index("prompt") for key, group in shown.groupby("evaluation_key")}
    bare = _without_trigger(prompt, records, shown["prompt"].unique())
    place, chosen = _Places(records, by_set), _chosen(rungs, axes)
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
    return Grid(x, y, z, x_values, tuple(y_values), z_values, tuple(cells), prompt, int(seed), varying)


def control_like(records: StudyRecords, evaluation_key: str) -> str | None:
    """The image set without an adapter that was made with the same EvalConfig as this one; None where there is none."""
    own = records.evaluations[records.evaluations["evaluation_key"] == evaluation_key]
    controls = records.evaluations[records.evaluations["training_key"] == CONTROL]
    if own.empty:
        return None
    columns = [name for name in controls if name.startswith("eval.")]
    # By text, as values may be lists; `map`, as astype(str) leaves what is missing missing, and that equals nothing.
    is_like = (controls[columns].map(str) == own[columns].map(str).iloc[0]).all(axis=1)
    return next(iter(controls.loc[is_like, "evaluation_key"]), None)


def draw_grid(grid: Grid) -> Image.Image:
    """The grid as one picture, z downwards: values above and beside, LPIPS and trial under each picture.

    Raises:
        RecordsError: a picture that the records name is missing or damaged."""
    font, n_rows = ImageFont.load_default(_TEXT), sum(len(rows) for rows in grid.cells)
    step_x, step_y = CELL_PIXELS + _GAP, CELL_PIXELS + _LINE + _GAP
    width = max(_SIDE + len(grid.x_values) * step_x + _GAP, 480)
    notes = [f"{grid.prompt}  (seed {grid.seed})"]
    if grid.varying:
        notes.append(f"Also differ between pictures: {', '.join(grid.varying)}")
    head = _GAP + len(notes) * _LINE
    sheet = Image.new("RGB", (width, head + len(grid.cells) * (_LINE + _GAP) * 2 + n_rows * step_y), "white")
    draw = ImageDraw.Draw(sheet)
    for line, text in enumerate(notes):
        draw.text((_GAP, _GAP + line * _LINE), _cut(text, font, width - 2 * _GAP), fill="black", font=font)
    top = head + _GAP
    for z_value, names, rows in zip(grid.z_values, grid.y_values, grid.cells, strict=True):
        if grid.z:
            draw.text((_GAP, top), _cut(f"{grid.z} {_text(z_value)}", font, width), fill="black", font=font)
            top += _LINE + _GAP
        for column, value in enumerate(grid.x_values):
            draw.text((_SIDE + column * step_x, top), _cut(f"{grid.x} {_text(value)}", font, CELL_PIXELS), fill="black", font=font)
        top += _LINE
        for name, row in zip(names, rows, strict=True):
            label = name if name in (NO_ADAPTER, NO_TRIGGER) else f"{grid.y} {_text(name)}"
            draw.text((_GAP, top + CELL_PIXELS // 2), _cut(label, font, _SIDE - _GAP), fill="black", font=font)
            for column, cell in enumerate(row):
                _draw_cell(sheet, draw, cell, (_SIDE + column * step_x, top), font)
            top += step_y
    return sheet.crop((0, 0, width, top + _GAP))


def save_grid(sheet: Image.Image, file: Path) -> None:
    """Write the picture in one piece; its format is its name's.

    Raises:
        RecordsError: a name that is of no picture format, or a file that cannot be written."""
    part = file.with_name(f".part-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(part)
        part.replace(file)
    except (OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise RecordsError(f"The grid must be written as a picture, but {file} does not take it: {error}. Use -o FILE.png.") from error


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


def _chosen(rungs: pd.DataFrame, axes: list[str]) -> dict[tuple[Hashable, ...], tuple[str, str]]:
    """Trial and image set by the values of the axes; `rungs` has the preferred ones first."""
    first = rungs.drop_duplicates(axes)
    return {tuple(row[axis] for axis in axes): (row["trial"], row["evaluation_key"]) for row in first.to_dict("records")}


def _without_trigger(prompt: str, records: StudyRecords, prompts: Any) -> str | None:
    """The prompt of the same pictures that says the same without the trigger word."""
    trigger = _trigger(records)
    if not trigger or trigger not in prompt:
        return None
    bare = _words(prompt.replace(trigger, " "))
    return next((other for other in prompts if trigger not in other and _words(other) == bare), None)


def _trigger(records: StudyRecords) -> str | None:
    folder = subject_folder(records)
    try:
        return json.loads((folder / "subject.json").read_text(encoding="utf-8"))["trigger"] if folder else None
    except (OSError, ValueError, KeyError, TypeError):
        return description_of(records).get("trigger")


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
    """Where the picture of an image set and prompt lies."""

    def __init__(self, records: StudyRecords, by_set: dict[Hashable, pd.DataFrame]) -> None:
        self._records, self._by_set, self._subject = records, by_set, subject_folder(records)

    def cell(self, found: tuple[str, str] | None, prompt: str | None) -> GridCell:
        trial, key = found or ("", "")
        images = self._by_set.get(key)
        if images is None or prompt not in images.index:
            return GridCell(None)
        row = images.loc[prompt]
        known = self._subject is not None and isinstance(row["nearest_reference"], str)
        nearest = self._subject / row["nearest_reference"] if known else None
        lpips = None if pd.isna(row["lpips"]) else float(row["lpips"])
        return GridCell(self._records.folder / row["path"], trial, lpips, nearest)

    def control(self, found: Iterable[tuple[str, str] | None], prompt: str) -> GridCell:
        """A picture without an adapter, made as those of a column were made: the first of them that has such a control."""
        keys = (control_like(self._records, pair[1]) for pair in found if pair)
        key = next((key for key in keys if key in self._by_set), None)
        return self.cell((NO_ADAPTER, key), prompt) if key else GridCell(None)


# ---- ink


def _draw_cell(sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: GridCell, at: tuple[int, int], font: Any) -> None:
    left, top = at
    if cell.picture is None:
        draw.rectangle((left, top, left + CELL_PIXELS, top + CELL_PIXELS), outline="#bbbbbb")
        draw.text((left + 8, top + 8), "no picture", fill="#777777", font=font)
        return
    try:
        with cell.picture.open("rb") as file, Image.open(file) as image:
            picture = ImageOps.contain(image.convert("RGB"), (CELL_PIXELS, CELL_PIXELS))
    except OSError as error:
        raise RecordsError(f"A stored picture must be readable, but {cell.picture} is not ({error}). Restore the study's pictures/.") from error
    sheet.paste(picture, (left, top))
    text = cell.trial if cell.lpips is None else f"{cell.trial}  LPIPS {cell.lpips:.3f}"
    draw.text((left, top + CELL_PIXELS), _cut(text, font, CELL_PIXELS), fill="#444444", font=font)


def _cut(text: str, font: Any, width: int) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
