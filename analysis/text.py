"""Tables as text for a terminal. The numbers come from analysis/tables.py; nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from analysis.bands import fid_warning
from analysis.load import StudyRecords
from analysis.pareto import front_notes
from analysis.photographs import photograph_notes
from analysis.prompt_groups import label_notes
from analysis.stats import Interval
from sweep.records import NO_ADAPTER, in_commands

NARROW = ("#", "trial", "state", "configuration", "epoch", "objective", "lpips", "fid")
"""What is left where a terminal is too narrow for every parameter and metric in a column of its own."""

MOST_NOTES = 5

MOST_ROWS = 100
"""More would scroll away."""

FURTHER = ("lpips seen / unseen", "held-out loss", "copies")
SIMILARITIES = ("dinov2", "clip_i", "clip_t", "face")
"""Columns of the full form, shown where some row has a value."""


def print_ranked(records: StudyRecords, ranked: pd.DataFrame, console: Console, *, most_rows: int = MOST_ROWS) -> None:
    """The best of the ranked trials, the files and the controls, in full where the console is wide
    enough or no terminal at all, else the narrow form."""
    shown = ranked[(ranked.index < most_rows) | ranked["is_control"] | ranked["is_file"]]
    labels = [label for label in records.labels if label != "label.baseline" and _heading(label) not in records.parameters]
    given = (*labels, *records.parameters)
    rows = [_cells(row, given) | _further_cells(row, _similarities(ranked)) for row in shown.to_dict("records")]
    further = [heading for heading in (*FURTHER, *_similarities(ranked)) if any(row.get(heading, "-") != "-" for row in rows)]
    measured = ("objective", "lpips [95 %]", "fid", "kid", "lpips vs baseline", *further)
    wide = ("#", "trial", "state", *map(_heading, given), "epoch", *measured)
    title = f"{records.name}: {len(records.trials)} trials, best first"
    _print_widest(console, _table(title, wide, rows), _table(title, NARROW, rows))
    if len(shown) < len(ranked):
        console.print(f"The {most_rows} best of {len(ranked)} rows; --rows N shows more, --csv has all.", highlight=False, style="dim")
    console.print(caption_of(ranked), highlight=False, style="dim")
    notes = (
        *notes_of(ranked),
        *front_notes(records),
        *label_notes(in_commands(records.folder), records.evaluations),
        *photograph_notes(records, ranked),
    )
    for note in notes:
        console.print(note, highlight=False, style="dim")


def print_frame(frame: pd.DataFrame, title: str, console: Console) -> None:
    """Any frame as a table, its columns as `texts_of` writes them."""
    columns = {name: texts_of(frame[name]) for name in frame}
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    _print_widest(console, _table(title, tuple(frame.columns), rows))


def texts_of(column: pd.Series) -> list[str]:
    """The column's cells for reading: short numbers, as of parameters, as one would write them, measured ones to four digits, very small
    ones as powers of ten, '-' where there is nothing."""
    values = column.tolist()
    numbers = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    if all(float(f"{value:g}") == value for value in numbers):
        return [_short(value) for value in values]
    return [f"{value:.0e}" if isinstance(value, float) and 0 < abs(value) < 5e-4 else text_of(value, 4) for value in values]


def caption_of(ranked: pd.DataFrame) -> str:
    """What every number in the ranked table rests on: n, networks, and what the intervals leave out."""

    def named(column: str) -> str:
        return " / ".join(str(value) for value in ranked[column].dropna().unique()) or "no"

    n_seeds = ranked["n_train_seeds"].max()
    covered = "the images, not training seeds" if pd.isna(n_seeds) or n_seeds < 2 else f"the images and the {n_seeds} training seeds"
    spread = "" if ranked["objective_spread"].isna().all() else " ± is the standard deviation between training seeds."
    return (
        f"{named('n_images')} images against {named('n_references')} references; LPIPS over {named('perceptual_backbone')}, FID and KID "
        f"over {named('pooled_backbone')}. Intervals cover {covered}; FID of few images is biased upwards.{spread}"
    )


def in_words(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of trials as a person reads it: states and the control by their names."""
    if "state_word" not in frame:
        return frame
    named = frame["trial"].mask(frame["is_control"].astype(bool), NO_ADAPTER)
    return frame.assign(trial=named, state=frame["state_word"]).drop(columns="state_word")


def notes_of(ranked: pd.DataFrame) -> list[str]:
    """What a reader must know before trusting a number: too few images for FID, copies of training images, metrics that are missing."""
    notes = [fid_warning(ranked)]
    n_copies = int(ranked["n_copies"].sum())
    if n_copies:
        sets = int((ranked["n_copies"] > 0).sum())
        notes.append(f"{n_copies} pictures of {sets} rows are copies of a training image: `is_copy` and `nearest_reference` in the images tell which.")
    equal = [
        f"{row['trial']} stands for {', '.join(row['equal_trials'])} too: "
        "equal configurations are one adapter."
        for row in ranked.to_dict("records")
        if isinstance(row.get("equal_trials"), tuple) and row["equal_trials"]
    ]
    notes += equal[:MOST_NOTES]
    if len(equal) > MOST_NOTES:
        more = len(equal) - MOST_NOTES
        notes.append(f"{more} more trials stand for equal ones: `equal_trials` in --csv.")
    reasons = {name: reason for skipped in ranked["skipped"] if isinstance(skipped, dict) for name, reason in skipped.items()}
    notes += [f"Left out: {reason if reason.startswith(name) else f'{name}: {reason}'}" for name, reason in reasons.items()]
    return [note for note in notes if note]


def text_of(value: Any, digits: int = 3) -> str:
    if isinstance(value, (list, dict, tuple)):
        return str(value)
    if pd.isna(value):
        return "-"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def _heading(column: str) -> str:
    return column.removeprefix("label.")


def _cells(row: Mapping[str, Any], given: Sequence[str]) -> dict[str, str]:
    n = 0 if pd.isna(row["lpips"]) else 1
    lpips = Interval(row["lpips"], row["lpips_low"], row["lpips_high"], n, 0)
    difference = Interval(row["vs_baseline"], row["vs_baseline_low"], row["vs_baseline_high"], int(row["vs_baseline_n"]), 0)
    values = {_heading(name): _short(row[name]) for name in given}
    return {
        **values,
        "#": text_of(row["rank_number"]),
        "trial": _trial_text(row),
        "state": row["state_word"],
        "configuration": " ".join(f"{name}={value}" for name, value in values.items() if value != "-"),
        "epoch": text_of(row["best_epoch"]),
        "objective": text_of(row["objective"], 4) + ("" if pd.isna(row["objective_spread"]) else f" ± {row['objective_spread']:.4f}"),
        "lpips": _with_band(text_of(row["lpips"]), row["lpips_band"]),
        "lpips [95 %]": _with_band(lpips.text(), row["lpips_band"]),
        "fid": _with_band(text_of(row["fid"], 1), row["fid_band"]),
        "kid": text_of(row["kid"], 4),
        "lpips vs baseline": difference.text(),
    }


def _trial_text(row: Mapping[str, Any]) -> str:
    if row["is_control"]:
        return NO_ADAPTER
    equal = row["equal_trials"] if isinstance(row["equal_trials"], tuple) else ()
    return row["trial"] + (f" (and {len(equal)} equal)" if equal else "")


def _further_cells(row: Mapping[str, Any], similarities: Sequence[str]) -> dict[str, str]:
    seen, unseen = text_of(row["lpips_seen"]), text_of(row["lpips_unseen"])
    return {
        **{name: text_of(row[name]) for name in similarities},
        "lpips seen / unseen": "-" if "-" in (seen, unseen) else f"{seen} / {unseen}",
        "held-out loss": text_of(row["heldout_loss"], 4),
        "copies": "-" if pd.isna(row["n_copies"]) or not row["n_copies"] else str(row["n_copies"]),
    }


def _similarities(ranked: pd.DataFrame) -> list[str]:
    """The further metrics of the table that have a column of their own here: those of the training images and prompts as a whole."""
    return [name for name in SIMILARITIES if name in ranked]


def _with_band(value: str, band: Any) -> str:
    return value if pd.isna(band) else f"{value} {band}"


def _short(value: Any) -> str:
    """A parameter's value as one would write it: 0.001, v2, 16."""
    return f"{value:g}" if isinstance(value, float) and not pd.isna(value) else text_of(value)


def _table(title: str, headings: Sequence[str], rows: Sequence[Mapping[str, str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        words = heading in ("trial", "state", "configuration")
        table.add_column(heading, justify="left" if words else "right", no_wrap=heading != "configuration")
    for row in rows:
        table.add_row(*(row[heading] for heading in headings))
    return table


def _print_widest(console: Console, *tables: Table) -> None:
    for table in tables:
        width = console.measure(table, options=console.options.update(width=10_000)).maximum
        if width <= console.width:
            console.print(table)
            return
        if not console.is_terminal:  # into a file nothing is cut
            Console(file=console.file, width=width).print(table)
            return
    console.print(tables[-1])
