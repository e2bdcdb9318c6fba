"""The command line: which commands there are, and errors as one line and an exit code. Each command is in a *_commands.py.

    0 the study has ended, or its budget is used up    1 no trial could be scored    2 an error that the person can mend    130 interrupted
"""

from __future__ import annotations

import difflib
import io
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from sweep import adapter_commands, cluster_commands, launch_commands, storage_commands, study_commands, subject_commands
from sweep.errors import UnmetError
from sweep.interrupting import sigterm_interrupts
from sweep.options import INTERRUPTED_CODE, MENDABLE
from trainables.errors import SweepError
from trainables.storage import line_of

_UsageError = typer.BadParameter.__bases__[0]  # typer has brought its own copy of click since 0.20-odd: no import fits all

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="LoRA hyperparameter sweeps for Stable Diffusion.")

COMMANDS = {
    "launch": launch_commands.launch,
    "resume": launch_commands.resume,
    "repair": launch_commands.repair,
    "confirm": launch_commands.confirm,
    "plan": launch_commands.plan,
    "trial": launch_commands.trial,
    "list": storage_commands.list_studies,
    "status": study_commands.status,
    "watch": study_commands.watch,
    "stop": study_commands.stop,
    "pause": study_commands.pause,
    "set": study_commands.set_limits,
    "rescore": study_commands.rescore,
    "rm": storage_commands.rm,
    "gc": storage_commands.gc,
    "prepare": subject_commands.prepare,
    "caption": subject_commands.caption,
    "class-images": subject_commands.class_images,
    "check": subject_commands.check,
    "export": adapter_commands.export,
    "generate": adapter_commands.generate,
    "score": adapter_commands.score,
    "submit": cluster_commands.submit,
    "attach": cluster_commands.attach,
}


class _Interrupted(Exception):
    """Ctrl+C or SIGTERM ended a command. Typer would end on a KeyboardInterrupt without a word."""


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    @wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            raise _Interrupted from None

    return run


for _name, _command in COMMANDS.items():
    app.command(_name)(_interruptible(_command))


OF_ANALYSIS = ("tables", "compare", "paper", "report", "grid", "figures")
"""The commands of `python -m analysis`, which nothing here imports."""


def main(arguments: list[str] | None = None) -> int:
    """The exit code. Every error of ours, and of the command line itself, is one line on stderr."""
    for stream in (sys.stdout, sys.stderr):  # names of files may hold what a terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    command = next(iter(sys.argv[1:] if arguments is None else arguments), "--help")
    if not command.startswith("-") and command not in COMMANDS:
        return _say_error(_unknown_command(command), code=MENDABLE)
    try:
        with sigterm_interrupts():
            result = app(arguments, standalone_mode=False, prog_name="sweep")
        return result if isinstance(result, int) else 0
    except SweepError as error:
        return _say_error(*(error.problems if isinstance(error, UnmetError) else [str(error)]), code=MENDABLE)
    except BrokenPipeError:  # whoever read it has seen enough: head, less
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # with which rich leaves, as code 1
            raise
        return 0
    except OSError as error:  # what no reader or writer has put into words of its own
        return _say_error(line_of(error), code=MENDABLE)
    except typer.Exit as error:
        return error.exit_code
    except (_Interrupted, KeyboardInterrupt, typer.Abort):
        return _say_error("interrupted", code=INTERRUPTED_CODE)
    except _UsageError as error:
        said = error.format_message().rstrip(".")
        way_out = f"{said}. Use --help to see what there is." if said else "A command is missing. Use e.g. launch STUDY.py."
        return _say_error(way_out, code=MENDABLE)


def _unknown_command(command: str) -> str:
    if command in OF_ANALYSIS:
        return f"`{command}` reads records, so it is a command of analysis. Use `python -m analysis {command} NAME`."
    programs = {**dict.fromkeys(OF_ANALYSIS, "python -m analysis"), **dict.fromkeys(COMMANDS, "sweep")}
    near = difflib.get_close_matches(command, programs, n=1)
    way_out = f"Did you mean `{programs[near[0]]} {near[0]}`?" if near else "Use --help to see what there is."
    return f"There is no command {command!r}. {way_out}"


def _say_error(*texts: str, code: int) -> int:
    for text in texts:
        typer.echo(f"error: {' '.join(text.split())}", err=True)
    return code
