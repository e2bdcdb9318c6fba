"""python -m analysis tables NAME [--table TABLE] [--by A B]: tables of a study from its records: ranked trials, pivots, costs, what mattered.
python -m analysis compare A B: several studies side by side.
python -m analysis paper NAME [--out DIR]: the paper's Tables 4 and 5, its figure and sample grids, beside the published values."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis.load import DEFAULT_STORAGE, load_study_records
from analysis.table_commands import add_table_commands
from analysis.text import print_frame
from sweep.records import SweepError


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 with one line on stderr for what the person can mend."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (SweepError, KeyError) as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    return 0


def _write_paper(options: argparse.Namespace) -> None:
    from analysis.paper import paper_rows, paper_table
    from analysis.paper_report import TABLES, caption_and_findings, readable_table, write_paper_report

    records = load_study_records(options.name, options.storage, skip_damaged=options.skip_damaged)
    folder, rows = options.out or records.output_folder("paper"), paper_rows(records)
    left_out = write_paper_report(records, rows, folder)
    for table in TABLES:
        print_frame(readable_table(paper_table(rows, table)), f"{records.name}: table {table} of the paper", Console())
    for line in caption_and_findings(records, rows):
        print(line)
    for line in left_out:
        print(line, file=sys.stderr)
    print(f"report  {folder / 'paper.md'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Tables and reports from the records of a study.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_table_commands(lambda name, help: _command(commands, name, help))
    paper = _command(commands, "paper", "the paper's tables, figure and sample grids, beside the published values")
    paper.add_argument("name", help="a study's name or folder")
    paper.add_argument("--out", type=Path, metavar="DIR", help="where to write them (default: paper/ in the study's folder)")
    paper.set_defaults(run=_write_paper)
    return parser


def _command(commands: argparse._SubParsersAction, name: str, help: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help)
    command.add_argument("--storage", default=DEFAULT_STORAGE, help="where studies are kept (default: %(default)s)")
    command.add_argument("--skip-damaged", action="store_true", help="leave damaged parts of the records out, with a warning")
    return command


if __name__ == "__main__":
    raise SystemExit(main())
