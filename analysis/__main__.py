"""python -m analysis tables NAME [--table TABLE] [--by A B]: tables of a study from its records: ranked trials, pivots, costs, what mattered.
python -m analysis compare A B: several studies side by side.
python -m analysis report NAME [-o report.html]: the study as one page that opens from disk.
python -m analysis grid NAME --x epoch --y guidance [--z caption]: pictures over two or three parameters.
python -m analysis figures NAME [-o DIR]: metrics, learning curves, slices, importance and trade-offs as PNG.
python -m analysis paper NAME [--out DIR]: the paper's Tables 4 and 5, its figure and sample grids, beside the published values."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from analysis.load import DEFAULT_STORAGE, StudyRecords, load_study_records
from analysis.table_commands import add_table_commands
from analysis.text import print_frame
from sweep.records import SweepError, line_of, sigterm_interrupts

EXAMPLES = {
    "tables": "python -m analysis tables captions --table pivot --by caption guidance --value lpips -o pivot.md",
    "compare": "python -m analysis compare captions mine",
    "paper": "python -m analysis paper paper --out paper",
    "report": "python -m analysis report captions -o report.html",
    "grid": "python -m analysis grid captions --x epoch --y guidance --z caption",
    "figures": "python -m analysis figures captions -o figures",
}


INTERRUPTED_CODE = 130

OF_SWEEP = (
    "launch", "resume", "repair", "confirm", "plan", "trial", "list", "status", "watch", "stop", "pause", "set", "rescore", "rm", "gc",
    "prepare", "caption", "class-images", "check", "export", "generate", "score", "submit", "attach",
)  # fmt: skip
"""The commands of `python -m sweep`, which nothing here imports."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 or 130 with one line on stderr for what the person can mend or has
    interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and not words[0].startswith("-") and words[0] not in EXAMPLES:
        print(f"error: {_unknown_command(words[0])}", file=sys.stderr)
        return 2
    options = _parser().parse_args(words)
    try:
        with sigterm_interrupts():
            options.run(options)
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return INTERRUPTED_CODE
    except (SweepError, KeyError) as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read it has seen enough: head, less
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # with which rich leaves, as code 1
            raise
    except OSError as error:  # what no reader or writer has put into words of its own
        print(f"error: {line_of(error)}", file=sys.stderr)
        return 2
    return 0


def _unknown_command(command: str) -> str:
    if command in OF_SWEEP:
        return f"`{command}` is a command of sweep. Use `python -m sweep {command} --help`."
    programs = {**dict.fromkeys(OF_SWEEP, "python -m sweep"), **dict.fromkeys(EXAMPLES, "python -m analysis")}
    near = difflib.get_close_matches(command, programs, n=1)
    way_out = f"Did you mean `{programs[near[0]]} {near[0]}`?" if near else "Use --help to see what there is."
    return f"There is no command {command!r}. {way_out}"


def _write_paper(options: argparse.Namespace) -> None:
    from analysis.paper import paper_rows, paper_table
    from analysis.paper_report import TABLES, caption_and_findings, readable_table, write_paper_report

    records = _records_of(options)
    folder, rows = options.out or records.output_folder("paper"), paper_rows(records)
    left_out = write_paper_report(records, rows, folder)
    for table in TABLES:
        print_frame(readable_table(paper_table(rows, table)), f"{records.name}: table {table} of the paper", Console())
    for line in caption_and_findings(records, rows):
        print(line)
    for line in left_out:
        print(line, file=sys.stderr)
    print(f"report  {folder / 'paper.md'}")


def _write_report(options: argparse.Namespace) -> None:
    from analysis.report import write_report

    records = _records_of(options)
    file = write_report(records, options.out or records.output_folder("report.html"))
    print(f"report  {file}  ({file.stat().st_size / 1e6:.1f} MB)")


def _write_grid(options: argparse.Namespace) -> None:
    from analysis.grid_sheets import draw_grid, save_grid
    from analysis.grids import grid_of

    records = _records_of(options)
    axes = [axis for axis in (options.x, options.y, options.z) if axis]
    grid = grid_of(records, options.x, options.y, options.z, prompt=options.prompt, seed=options.seed, nearest=options.nearest)
    file = options.out or records.output_folder(f"grid-{'-'.join(axes)}.png")
    save_grid(draw_grid(grid), file)
    print(f"grid  {file}")


def _write_figures(options: argparse.Namespace) -> None:
    from analysis.figures import write_figures

    records = _records_of(options)
    for file in write_figures(records, options.out or records.output_folder("figures")):
        print(f"figure  {file}")


def _records_of(options: argparse.Namespace) -> StudyRecords:
    return load_study_records(options.name, options.storage, skip_damaged=options.skip_damaged)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Tables and reports from the records of a study.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_table_commands(lambda name, help: _command(commands, name, help))
    paper = _command(commands, "paper", "the paper's tables, figure and sample grids, beside the published values")
    paper.add_argument("name", help="a study's name or folder")
    paper.add_argument("--out", type=Path, metavar="DIR", help="where to write them (default: paper/ in the study's folder)")
    paper.set_defaults(run=_write_paper)
    report = _command(commands, "report", "the study as one page: pictures, ranked table, curves, costs; opens from disk")
    report.add_argument("name", help="a study's name or folder")
    report.add_argument("-o", "--out", type=Path, metavar="FILE", help="where to write it (default: report.html in the study's folder)")
    report.set_defaults(run=_write_report)
    grid = _command(commands, "grid", "pictures of one prompt and seed over two or three parameters")
    grid.add_argument("name", help="a study's name or folder")
    for axis, is_needed in (("x", True), ("y", True), ("z", False)):
        grid.add_argument(f"--{axis}", required=is_needed, metavar="NAME", help="a parameter of the study, or epoch")
    grid.add_argument("--prompt", help="which prompt (default: the first)")
    grid.add_argument("--seed", type=int, help="which noise seed (default: the prompt's first)")
    grid.add_argument("--nearest", action="store_true", help="put its nearest training image beside each picture")
    grid.add_argument("-o", "--out", type=Path, metavar="FILE", help="where to write it (default: grid-X-Y.png in the study's folder)")
    grid.set_defaults(run=_write_grid)
    figures = _command(commands, "figures", "metrics, learning curves, slices, importance and trade-offs as PNG")
    figures.add_argument("name", help="a study's name or folder")
    figures.add_argument("-o", "--out", type=Path, metavar="DIR", help="where to write them (default: figures/ in the study's folder)")
    figures.set_defaults(run=_write_figures)
    return parser


def _command(commands: argparse._SubParsersAction, name: str, help: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=help, epilog=f"example: {EXAMPLES[name]}")
    command.add_argument("--storage", default=DEFAULT_STORAGE, help="where studies are kept (default: %(default)s)")
    command.add_argument("--skip-damaged", action="store_true", help="leave damaged parts of the records out, with a warning")
    return command


if __name__ == "__main__":
    raise SystemExit(main())
