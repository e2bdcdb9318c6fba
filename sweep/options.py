"""What several commands of the command line share: the form of their options, exit codes, the console. Imports nothing heavy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trainables.errors import SweepError
from trainables.storage import StorePath, folders_in, place

if TYPE_CHECKING:
    from sweep.study import Study

DEFAULT_STORAGE = Path("sweeps")
WIDTH_OF_A_FILE = 140
FAILED, MENDABLE, INTERRUPTED_CODE = 1, 2, 130


def study_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """For a shell that completes: the studies of the storage. A key that is pressed waits for no store."""
    storage = place(ctx.params.get("storage") or DEFAULT_STORAGE)
    found = [] if isinstance(storage, StorePath) else folders_in(storage)
    return [folder.name for folder in found if folder.name.startswith(incomplete) and (folder / "study.json").exists()]


StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.py", help="The study file, e.g. search_spaces/captions.py.", show_default=False)]
StudyName = Annotated[
    str, typer.Argument(metavar="NAME", help="A study's name, or its folder.", show_default=False, autocompletion=study_names)
]
Storage = Annotated[Any, typer.Option("--storage", parser=place, metavar="DIR", help="Where studies are kept: a folder, or s3://bucket/prefix.")]
"""A Place."""
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter or a field of the study. Repeatable.")]
Samples = Annotated[int | None, typer.Option(help="How many trials in all.")]
MaxConcurrent = Annotated[int | None, typer.Option(help="Most trials at a time.")]
Loggers = Annotated[
    list[str] | None, typer.Option("--logger", metavar="LOGGER", help="tensorboard, wandb or mlflow, beside the records; off: none. Repeatable.")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def overrides_of(sets: list[str] | None, shorthands: dict[str, Any]) -> dict[str, str]:
    """The texts of `--set`, and of the options that are short for one."""
    from sweep.study_file import parse_assignments

    given = {key: ",".join(value) if isinstance(value, list) else str(value) for key, value in shorthands.items() if value is not None}
    return parse_assignments(sets or ()) | given


def load(study_file: Path, sets: list[str] | None, shorthands: dict[str, Any]) -> Study:
    from sweep.study import load_study

    study = load_study(study_file, overrides_of(sets, shorthands))
    for note in study.notes:
        typer.echo(f"note: {note}")
    return study


def console() -> Any:
    from rich.console import Console

    # Into a file or a pipe rich would write 80 columns, too few for a table of configurations.
    return Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_FILE)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is removed; without a terminal there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise SweepError(f"{question} There is no terminal to ask on, so nothing was removed. Say so with --yes.")
    typer.confirm(question, abort=True)
