"""python -m analysis tables NAME [--storage DIR] [--pivot A B] [--csv]: the ranked table of a study, from its records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from analysis.load import DEFAULT_STORAGE, load_study_records
from analysis.tables import pivot, ranked_trials
from analysis.text import print_frame, print_ranked
from sweep.records import RecordsError


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 with one line on stderr for what the person can mend."""
    options = _parser().parse_args(arguments)
    try:
        records = load_study_records(options.name, options.storage, skip_damaged=options.skip_damaged)
        frame = pivot(records, *options.pivot) if options.pivot else ranked_trials(records)
    except (RecordsError, KeyError) as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    if options.csv:
        frame.to_csv(sys.stdout, index=False)
    elif options.pivot:
        print_frame(frame, records.name, Console())
    else:
        print_ranked(records, frame, Console())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Tables from the records of a study.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    tables = commands.add_parser("tables", help="the ranked table of a study")
    tables.add_argument("name", help="a study's name or folder")
    tables.add_argument("--storage", default=DEFAULT_STORAGE, help="where studies are kept (default: %(default)s)")
    tables.add_argument("--pivot", nargs=2, metavar=("A", "B"), help="one row per pair of values of two parameters instead")
    tables.add_argument("--csv", action="store_true", help="CSV on stdout")
    tables.add_argument("--skip-damaged", action="store_true", help="leave damaged parts of the records out, with a warning")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
