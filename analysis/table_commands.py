"""The commands `tables` and `compare`: which table a word means, and what stands under it. The numbers come from the modules named here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis.bands import fid_warning
from analysis.load import StudyRecords, load_study_records
from analysis.output import FORMATS, format_of, write_frame
from analysis.photographs import photograph_notes
from analysis.prompt_groups import label_notes
from analysis.tables import best_of_each, pivot, ranked_trials
from analysis.text import MOST_ROWS, notes_of, print_ranked
from sweep.records import RecordsError, in_commands

TABLES: dict[str, str] = {
    "ranked": "every trial, best first, with intervals",
    "pivot": "by any parameters (--by caption guidance): n, best, mean",
    "best": "the best trial of each value (--by caption)",
    "curves": "learning curves: each training at each rung",
    "survival": "how many trials each rung stopped",
    "failures": "why trials failed",
    "cost": "what was asked, done and saved, and device seconds",
    "seen": "seen against unseen prompts",
    "prompts": "LPIPS intervals over pictures, and over prompts too",
    "set": "the configurations that cannot be told from the best",
    "paired": "every trial against one (--with; the baseline) on the same prompts and noise",
    "importance": "which parameters mattered (--method)",
    "effects": "what each value of a parameter is worth (--by)",
    "interaction": "whether two parameters act together (--by A B)",
    "pareto": "the trials that none beats in two or three metrics (--axes)",
    "epochs": "the best objective for as many epochs",
}


def add_table_commands(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Give the parser `tables` and `compare`; `add` makes a command by its name and help."""
    tables = add("tables", "tables of a study: ranked trials, pivots, curves, costs, what mattered")
    tables.add_argument("name", help="a study's name or folder")
    words = ", ".join(f"{name} ({what})" for name, what in TABLES.items())
    tables.add_argument("--table", choices=tuple(TABLES), metavar="TABLE", help=f"{words.replace('%', '%%')}; default: ranked")
    tables.add_argument("--by", nargs="+", default=[], metavar="PARAMETER", help="the parameters of pivot, best, effects or interaction")
    tables.add_argument("--pivot", nargs="+", metavar="PARAMETER", help="short for --table pivot --by PARAMETER ...")
    tables.add_argument("--value", default="objective", help="the metric of pivot, best, importance, effects, interaction (default: %(default)s)")
    tables.add_argument("--axes", nargs="+", default=(), metavar="METRIC", help="the metrics of pareto (default: the study's own, or lpips fid)")
    tables.add_argument("--with", dest="reference", metavar="TRIAL", help="the trial of `paired` (default: the baseline)")
    tables.add_argument("--rows", type=int, default=MOST_ROWS, help="of the ranked table in a terminal the best so many, and the controls (default: %(default)s)")
    tables.add_argument("--method", default="ped-anova", help="ped-anova, or fanova where scikit-learn is installed (default: %(default)s)")
    tables.set_defaults(run=_run_tables)
    compare = add("compare", "several studies side by side")
    compare.add_argument("names", nargs="+", metavar="NAME", help="studies' names or folders")
    compare.add_argument("--trials", action="store_true", help="every trial of all studies instead of the best of each")
    compare.set_defaults(run=_run_compare)
    for command in (tables, compare):
        command.add_argument("--format", choices=FORMATS, help="default: that of the file's suffix, else text")
        command.add_argument("--csv", dest="format", action="store_const", const="csv", help="short for --format csv")
        command.add_argument("-o", "--out", type=Path, metavar="FILE", help="a file instead of the terminal")
        command.add_argument("--seed", type=int, default=0, help="of resampling (default: %(default)s)")


def table_of(records: StudyRecords, options: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    """The table that the options name, and the lines that belong under it."""
    from analysis.cost import cost, failures
    from analysis.curves import learning_curves, survival
    from analysis.importance import importances_of, interaction_of, main_effects, order_note
    from analysis.pareto import front_notes, pareto_front, quality_against_epochs
    from analysis.prompts import intervals_over_prompts, seen_and_unseen
    from analysis.selection import best_set, optimism_of_the_best, paired_comparisons, selection_statement

    seed, by, value = options.seed, tuple(options.by), options.value
    frames: dict[str, Callable[[], pd.DataFrame]] = {
        "ranked": lambda: ranked_trials(records, seed=seed),
        "pivot": lambda: pivot(records, *_parameters(by, "pivot"), value=value, seed=seed),
        "best": lambda: best_of_each(
            records, *_parameters(by or _caption_of(records), "best"), value=value, seed=seed
        ),
        "curves": lambda: learning_curves(records),
        "survival": lambda: survival(records, seed=seed),
        "failures": lambda: failures(records),
        "cost": lambda: cost(records),
        "seen": lambda: seen_and_unseen(records, seed=seed),
        "prompts": lambda: intervals_over_prompts(records, seed=seed),
        "set": lambda: best_set(records),
        "paired": lambda: paired_comparisons(records, options.reference),
        "importance": lambda: importances_of(
            records, value=value, method=options.method, seed=seed
        ),
        "effects": lambda: main_effects(records, *by, value=value, seed=seed),
        "interaction": lambda: interaction_of(
            records, *_parameters(by, "interaction", n=2), value=value
        ),
        "pareto": lambda: pareto_front(records, *options.axes),
        "epochs": lambda: quality_against_epochs(records),
    }
    frame = frames[options.table]()
    if options.table == "ranked":
        return frame, [
            *notes_of(frame),
            *front_notes(records),
            *label_notes(in_commands(records.folder), records.evaluations),
            *photograph_notes(records, frame),
        ]
    if options.table == "seen":
        return frame, label_notes(in_commands(records.folder), records.evaluations)
    if options.table == "set":
        return frame, [selection_statement(frame, optimism_of_the_best(records, seed=seed))]
    if options.table == "importance" and len(frame) and frame["importance"].isna().all():
        return frame, [f"No importance: {frame['n'].iloc[0]} scored trials, of which 10 are the least, and their values must differ."]
    if options.table == "importance":
        return frame, [note for note in [order_note(frame)] if note]
    has_fid = "fid" in frame and options.table != "cost"
    return frame, [note for note in [fid_warning(records.evaluations)] if has_fid and note]


def _run_tables(options: argparse.Namespace) -> None:
    if options.pivot:
        options.table, options.by = "pivot", options.pivot
    options.table = options.table or "ranked"
    format = format_of(options.format, options.out)
    records = load_study_records(options.name, options.storage, skip_damaged=options.skip_damaged)
    frame, notes = table_of(records, options)
    if options.table == "ranked" and format == "text" and options.out is None:
        print_ranked(records, frame, Console(), most_rows=options.rows)  # prints the notes, too
        return
    title = records.name if options.table in ("ranked", "pivot") else f"{records.name}: {TABLES[options.table].split(' (')[0]}"
    _write(frame, title, notes, format=format, out=options.out)


def _run_compare(options: argparse.Namespace) -> None:
    from analysis.comparison import (
        compare_studies,
        comparison_notes,
        protocol_notes,
        ranked_together,
    )

    format = format_of(options.format, options.out)
    studies = [load_study_records(name, options.storage, skip_damaged=options.skip_damaged) for name in options.names]
    table = compare_studies(studies, seed=options.seed)
    notes = [*protocol_notes(studies), *comparison_notes(table)] + [
        note for note in [fid_warning(table)] if note
    ]
    frame = ranked_together(studies, seed=options.seed) if options.trials else table
    _write(frame, " and ".join(records.name for records in studies), notes, format=format, out=options.out)


def _write(frame: pd.DataFrame, title: str, notes: Sequence[str], *, format: str, out: Path | None) -> None:
    """The table, and its notes where they do not disturb what reads it."""
    write_frame(frame, title, format=format, out=out)
    for note in notes:
        print(note, file=sys.stdout if format == "text" and out is None else sys.stderr)
    if out is not None:
        print(f"table   {out}", file=sys.stderr)


def _parameters(by: tuple[str, ...], table: str, n: int | None = None) -> tuple[str, ...]:
    if not by or (n is not None and len(by) != n):
        raise RecordsError(f"The table {table} is by {n or 'one or more'} parameters, but {len(by)} are given. Add e.g. --by caption guidance.")
    return by


def _caption_of(records: StudyRecords) -> tuple[str, ...]:
    return ("caption",) if "caption" in records.parameters else ()
