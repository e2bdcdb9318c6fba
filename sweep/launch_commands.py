"""The commands that run a study, or say what running it would cost: launch, resume, plan, trial. Each parses, calls and prints."""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweep.options import (
    DEFAULT_STORAGE,
    FAILED,
    INTERRUPTED_CODE,
    Device,
    Loggers,
    MaxConcurrent,
    Samples,
    Sets,
    Storage,
    StudyFile,
    StudyName,
    Yes,
    console,
    load,
    overrides_of,
)
from sweep.options import confirm as confirm_with_person
from trainables.errors import SweepError

if TYPE_CHECKING:
    from sweep.driver import Driver
    from sweep.folder import StudyFolder
    from sweep.launches import Request
    from sweep.live_report import LiveReport
    from sweep.progress import Progress
    from sweep.study import Study
    from trainables.storage import Place

RayAddress = Annotated[
    str | None, typer.Option("--address", metavar="ADDRESS", help="A Ray that runs, with all its nodes: auto, or HOST:PORT. Otherwise this machine.")
]
Name = Annotated[str | None, typer.Option(help="Name of the study; its file's otherwise.")]
Report = Annotated[bool, typer.Option("--report", help="Keep report.html in the study's folder up to date while it runs.")]
LostAfter = Annotated[
    float | None,
    typer.Option("--lost-after", min=1, metavar="SECONDS", help="Replace a worker that shows no progress for so long (300; 4 times that while it loads)."),
]
PackSize = Annotated[int | None, typer.Option(min=1, help="Trainings that advance together on a device; measured otherwise.")]


def launch(
    study_file: StudyFile,
    samples: Samples = None,
    name: Name = None,
    storage: Storage = DEFAULT_STORAGE,
    sets: Sets = None,
    max_concurrent: MaxConcurrent = None,
    pack_size: PackSize = None,
    device: Device = "auto",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the UNet: minutes at the start, faster steps on a GPU.")] = False,
    gradient_checkpointing: Annotated[bool, typer.Option("--gradient-checkpointing", help="Less memory, slower steps.")] = False,
    logger: Loggers = None,
    address: RayAddress = None,
    report: Report = False,
    lost_after: LostAfter = None,
) -> None:
    """Run a study, or go on with it where its records stop: train, score, stop the weak early, record everything.

    E.g. `sweep launch search_spaces/captions.py --samples 24`.

    Ctrl+C ends it when the rungs under way are scored, a second one at once; the same command, or `sweep resume NAME`, goes on."""
    started_at = time.monotonic()
    study = load(study_file, sets, {"samples": samples, "name": name, "max_concurrent": max_concurrent, "loggers": logger})
    options = {"device": device, "pack_size": pack_size, "compile": compile, "gradient_checkpointing": gradient_checkpointing, "lost_after": lost_after}
    _run(study, storage, options, started_at=started_at, address=address, report=report)


def resume(
    name: StudyName,
    samples: Samples = None,
    new_name: Annotated[str | None, typer.Option("--name", help="Start a new version of the study under this name.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    sets: Sets = None,
    max_concurrent: MaxConcurrent = None,
    pack_size: PackSize = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda; as before otherwise.")] = None,
    logger: Loggers = None,
    address: RayAddress = None,
    report: Report = False,
    lost_after: LostAfter = None,
) -> None:
    """Go on with a study where its records stop, or end its pause: `sweep resume captions`, `sweep resume captions --samples 40`.

    It runs the study.py that is stored in the study's folder, with the settings of its last launch. A study file is code: resume only
    folders that you trust. What trials have done is not done again; unfinished trainings go on from their last adapter."""
    started_at = time.monotonic()
    from sweep.folder import find_study_folder
    from sweep.launches import read_launches

    folder = find_study_folder(name, storage)
    overrides = overrides_of(sets, {"samples": samples, "max_concurrent": max_concurrent, "loggers": logger})
    if folder.holder is not None and new_name is None:
        _end_pause(folder, overrides, report=report)
        return
    request = read_launches(folder.launches).request
    options = _options_of(request, device=device, pack_size=pack_size, lost_after=lost_after)
    with _directory_of(request):
        study = _stored_study(folder, request, {**overrides, "name": new_name or folder.root.name})
        _say_if_changed(folder, request)
        _run(study, folder.storage, options, started_at=started_at, address=address, report=report)


def repair(
    name: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    yes: Yes = False,
    pack_size: PackSize = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu or cuda; as before otherwise.")] = None,
    address: RayAddress = None,
) -> None:
    """Make a study whole again: find what is damaged or missing, put it aside, and compute it again: `sweep repair captions`.

    It says first what it will do, and asks. Damaged files stay in damaged/ in the study's folder. Trials whose rows are lost are tried
    again, and a study that has not ended goes on."""
    started_at = time.monotonic()
    from sweep.damage import check_study
    from sweep.folder import find_study_folder
    from sweep.launches import read_launches
    from sweep.repair import put_aside, repair_lines, request_of, restore_texts, to_compute

    folder = find_study_folder(name, storage, damaged=True)
    study = folder.root.name
    # Nobody launches it while the question waits.
    with folder.held() as hold, _directory_of(request_of(folder)):
        checkup = check_study(folder)
        if not checkup.damages:
            typer.echo(f"{study} is whole: nothing is damaged or missing.")
            return
        for line in repair_lines(checkup.damages):
            typer.echo(line)
        confirm_with_person(f"Repair {study}?", yes=yes)
        hold.require()  # a machine that slept meanwhile has lost it
        if not yes:  # another study may have trained a shared adapter again meanwhile
            checkup = checkup.still_in(check_study(folder))
        put_aside(folder, checkup.damages)
        problems = restore_texts(folder, checkup.damages)
    for problem in problems:
        typer.echo(problem, err=True)
    work, code = to_compute(checkup), 0
    if work.is_needed and not problems:
        request = read_launches(folder.launches).request
        options = _options_of(request, device=device, pack_size=pack_size)
        options |= {"again": work.evaluation_keys, "gone_adapters": work.adapters}
        with _directory_of(request):
            again = _stored_study(folder, request, {"name": study})
            code = _run_to_end(again, folder.storage, options, started_at=started_at, address=address)[1]
    left = check_study(folder).damages
    for damage in left:
        typer.echo(f"{damage.text}: {damage.remedy.value}")
    typer.echo(f"{study} is whole again." if not left else f"{study} is not whole: {len(left)} parts are left.")
    raise typer.Exit(code or (FAILED if left else 0))


def confirm(
    name: StudyName,
    top: Annotated[int, typer.Option(min=2, help="The best so many trials.")] = 5,
    images: Annotated[
        int, typer.Option(min=2, help="Pictures of each, at least; FID wants hundreds.")
    ] = 200,
    seeds: Annotated[
        int, typer.Option(min=1, help="Training seeds of each; one alone settles nothing.")
    ] = 3,
    new_name: Annotated[
        str | None, typer.Option("--name", help="Name of the confirmation; NAME-confirm otherwise.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    pack_size: PackSize = None,
    device: Annotated[
        str | None, typer.Option("--device", help="auto, cpu or cuda; as before otherwise.")
    ] = None,
    address: RayAddress = None,
) -> None:
    """Train and score the best trials anew, under fresh seeds, and say whether the winner holds: `sweep confirm captions --top 5 --seeds 3`.

    It is a study of its own, NAME-confirm, whose file is written beside the records; the same command goes on with it."""
    started_at = time.monotonic()
    from sweep.confirmation import confirmation_source, finalists_of, one_of_each, verdict_of
    from sweep.folder import find_study_folder
    from sweep.launches import read_launches
    from sweep.records import TRIALS, Records, as_rows
    from sweep.study import load_study

    folder = find_study_folder(name, storage)
    request = read_launches(folder.launches).request
    options = _options_of(request, device=device, pack_size=pack_size)
    rows = as_rows(Records(folder.root).latest_trials(), TRIALS)
    finalists = finalists_of(one_of_each(rows), top=top)
    with _directory_of(request):
        study = _stored_study(folder, request, {"name": folder.root.name})
        new_name = new_name or f"{folder.root.name}-confirm"
        source = confirmation_source(study, finalists, n_images=images, n_seeds=seeds)
        driver, code = _run_to_end(
            load_study(f"{new_name}.py", {"name": new_name}, source=source), folder.storage, options, started_at=started_at, address=address
        )
    for line in verdict_of(finalists, list(driver.trials.values())) if driver.finished else ():
        typer.echo(line)
    raise typer.Exit(code)


def plan(
    study_file: StudyFile,
    samples: Samples = None,
    name: Name = None,
    storage: Storage = DEFAULT_STORAGE,
    sets: Sets = None,
    max_concurrent: MaxConcurrent = None,
    logger: Loggers = None,
) -> None:
    """Say what a study will cost: trials, distinct trainings, epochs, evaluations; and how long, once it was launched here. Does no work.

    It refuses what `sweep launch` would refuse, all of it at once, and names what is to be downloaded.

    `sweep plan search_spaces/captions.py --samples 64`"""
    from sweep.folder import StudyFolder
    from sweep.keys import Keys
    from sweep.plan import make_plan, rates_for, render_plan
    from sweep.preconditions import unmet_before_launch

    given = {"samples": samples, "name": name, "max_concurrent": max_concurrent, "loggers": logger}
    study = load(study_file, sets, given)
    folder = StudyFolder(storage, study.name)
    unmet = unmet_before_launch(Keys(study), folder)
    unmet.require_none()
    rates = rates_for(study, folder)
    typer.echo(render_plan(make_plan(study, rates=rates)), nl=False)
    for note in unmet.notes:
        typer.echo(f"note: {note}")
    if folder.exists:
        from sweep.disk import disk_of, use_of
        from sweep.status import disk_text

        typer.echo(f"So far on {disk_text(disk_of(use_of(folder), rates))}.")


def trial(
    study_file: StudyFile,
    name: Name = None,
    storage: Storage = DEFAULT_STORAGE,
    sets: Sets = None,
    device: Device = "auto",
    again: Annotated[bool, typer.Option("--again", help="Train and score even what is stored already.")] = False,
) -> None:
    """Run one configuration in this process, without Ray; breakpoints work. What --set leaves open is the baseline's.

    `sweep trial search_spaces/captions.py --set rank=16 --set guidance=4`"""
    from sweep.one_trial import one_trial_study, run_trial_here
    from sweep.progress import Progress

    study = one_trial_study(load(study_file, sets, {"name": name}))
    screen = console()
    with Progress(screen, study=study.name) as view:
        driver, snapshot = run_trial_here(study, storage, device=device, again=again, view=view)
    _print_end(screen, driver, snapshot, storage, first_scored_s=view.first_scored_s)
    raise typer.Exit(_exit_code(driver, snapshot))


def _run(study: Study, storage: Place, options: Mapping[str, Any], *, started_at: float, address: str | None, report: bool) -> None:
    """Launch a study and exit with its code. `options`: as of `launch`."""
    raise typer.Exit(_run_to_end(study, storage, options, started_at=started_at, address=address, with_report=report)[1])


def _run_to_end(
    study: Study, storage: Place, options: Mapping[str, Any], *, started_at: float, address: str | None, with_report: bool = False
) -> tuple[Driver, int]:
    """Launch a study, print how it ended, and return its driver and the exit code."""
    from sweep.live_report import LiveReport
    from sweep.progress import Progress

    screen, report = console(), LiveReport() if with_report else None
    with _made_once_more(report):
        with Progress(screen, study=study.name, started_at=started_at, report=report) as view:
            driver, snapshot = _run_in(view, screen, study, storage, options, address)
        _print_end(screen, driver, snapshot, storage, first_scored_s=view.first_scored_s)
    return driver, _exit_code(driver, snapshot)


def _run_in(
    view: Progress, screen: Any, study: Study, storage: Place, options: Mapping[str, Any], address: str | None
) -> tuple[Driver, Mapping[str, Any]]:
    from sweep.folder import StudyFolder
    from sweep.keys import Keys
    from sweep.pareto import notes_on

    keys = Keys(study)
    # Said before Ray is waited for.
    keys.check(StudyFolder(storage, study.name), scores_here=address is None)
    for line in (*keys.cut_captions(), *keys.idle_tags()):
        screen.print(f"warning: {line}", highlight=False, markup=False, soft_wrap=True)
    for line in (*keys.passed_over(), *notes_on(study)):
        screen.print(f"note: {line}", highlight=False, markup=False, soft_wrap=True)
    view.phase("importing Ray")
    from sweep.runner import Launch, launch

    pack_options = {name: bool(options.get(name)) for name in ("compile", "gradient_checkpointing")}
    device, pack_size = options.get("device") or "auto", options.get("pack_size")
    how = Launch(storage, device=device, pack_size=pack_size, pack_options=pack_options, keys=keys, view=view, address=address)
    how.again, how.gone_adapters = options.get("again", ()), options.get("gone_adapters", ())
    how.lost_after_s = options.get("lost_after")
    return launch(study, how)


@contextlib.contextmanager
def _made_once_more(report: LiveReport | None) -> Iterator[None]:
    """At the end of a launch, also of one that could not go on."""
    from sweep.errors import LeaseLostError

    try:
        yield
    except LeaseLostError:  # the report is the other launch's now
        raise
    except SweepError:
        if report is not None and report.has_scores:
            typer.echo(report.finish())
        raise
    if report is not None:
        typer.echo(report.finish())


def _end_pause(folder: StudyFolder, overrides: Mapping[str, str], *, report: bool) -> None:
    """`resume` of a study that is running: it can only be paused."""
    from sweep.control import ask, asked_of
    from sweep.errors import StudyError
    from sweep.record_files import in_commands

    name, own = folder.root.name, in_commands(folder.root)
    if not asked_of(folder).paused:
        raise StudyError(f"Only a study that is paused or has ended can be resumed, but {name} is running. Change it with `sweep set {own} KEY=VALUE`.")
    if overrides:
        raise StudyError(f"A pause is ended as it began, but {', '.join(overrides)} would change. Use `sweep set {own} KEY=VALUE` for limits, then resume it.")
    if report:
        raise StudyError(f"`--report` is for a launch that begins, but that of {name} is live. Use `python -m analysis report {own}`.")
    ask(folder, paused=False)
    typer.echo(f"{name} goes on in a second or so, in its own launch.")


def _stored_study(folder: StudyFolder, request: Request, changes: Mapping[str, str]) -> Study:
    from sweep.study import load_study
    from sweep.study_file import read_source

    stands_for = request.file or folder.source  # for what the source makes of __file__
    return load_study(stands_for, {**request.overrides, **changes}, source=read_source(folder.source))


def _options_of(request: Request, **changes: Any) -> dict[str, Any]:
    """Those of the last launch, with what is given now."""
    return {**request.options, **{name: value for name, value in changes.items() if value is not None}}


def _directory_of(request: Request) -> contextlib.AbstractContextManager[None]:
    """Relative paths in a study are meant from where it was launched, if that is still there."""
    if request.directory and not Path(request.directory).is_dir():
        typer.echo(f"note: the study was launched in {request.directory}, which is gone; relative names in it are looked up here.")
    return contextlib.chdir(request.directory) if request.directory and Path(request.directory).is_dir() else contextlib.nullcontext()


def _say_if_changed(folder: StudyFolder, request: Request) -> None:
    from sweep.record_files import in_commands
    from sweep.study_file import read_source

    file = Path(request.file)
    if request.file and file.is_file() and read_source(file) != read_source(folder.source):
        command = f"sweep launch {shlex.quote(str(file))} --name {in_commands(folder.root)}"
        typer.echo(
            f"note: {file} has changed since; this goes on with {folder.source}. `{command}` takes "
            "the changes."
        )


def _exit_code(driver: Driver, snapshot: Mapping[str, Any]) -> int:
    from sweep.causes import Cause

    is_left = driver.n_ended < driver.n_trials or snapshot.get("requests_open")
    if driver.stop_cause is Cause.INTERRUPTED and is_left:
        return INTERRUPTED_CODE
    return 0 if driver.best is not None else FAILED


def _print_end(screen: Any, driver: Driver, snapshot: Any, storage: Place, *, first_scored_s: float | None) -> None:
    from sweep.folder import StudyFolder
    from sweep.summary import print_summary

    print_summary(screen, driver, snapshot, StudyFolder(storage, driver.study.name), first_scored_s=first_scored_s)
