"""The command line: which commands there are, and errors as one line and an exit code. Each command is in a *_commands.py.

    0 the study has ended, or its budget is used up    1 no trial could be scored    2 an error that the person can mend    130 interrupted
"""

from __future__ import annotations

import typer

from sweep import launch_commands, storage_commands, study_commands, subject_commands
from sweep.options import INTERRUPTED_CODE, MENDABLE
from trainables.errors import SweepError

_UsageError = typer.BadParameter.__bases__[0]  # typer has brought its own copy of click since 0.20-odd: no import fits all

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="LoRA hyperparameter sweeps for Stable Diffusion."
)

for command in (
    *(launch_commands.launch, launch_commands.resume, launch_commands.plan, launch_commands.trial),
    *(study_commands.status, study_commands.stop, study_commands.pause, study_commands.rescore),
    *(subject_commands.prepare, subject_commands.caption, subject_commands.check),
    *(storage_commands.rm, storage_commands.gc),
):
    app.command()(command)
app.command("set")(study_commands.set_limits)
app.command("list")(storage_commands.list_studies)
app.command("class-images")(subject_commands.class_images)


def main(arguments: list[str] | None = None) -> int:
    """The exit code. Every error of ours, and of the command line itself, is one line on stderr."""
    try:
        result = app(arguments, standalone_mode=False, prog_name="sweep")
        return result if isinstance(result, int) else 0
    except SweepError as error:
        return _say_error(str(error), MENDABLE)
    except PermissionError as error:
        return _say_error(f"Files must be readable, but {error.filename} is not: {error.strerror}. Change its permissions.", MENDABLE)
    except typer.Exit as error:
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _say_error("interrupted", INTERRUPTED_CODE)
    except _UsageError as error:
        said = error.format_message().rstrip(".")
        way_out = f"{said}. Use --help to see what there is." if said else "A command is missing. Use e.g. launch STUDY.py."
        return _say_error(way_out, MENDABLE)


def _say_error(text: str, code: int) -> int:
    typer.echo(f"error: {' '.join(text.split())}", err=True)
    return code
