"""How studies stand, from their folders alone: one in full, or all of a storage in a line each. Starts and changes nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from sweep.damage import CHECKED_AT_A_GLANCE, Checkup, check_study
from sweep.disk import Disk, Garbage, Training, disk_of, studies_in, train_s, use_of
from sweep.errors import StudyError, SweepError
from sweep.record_files import in_commands
from sweep.folder import StudyFolder
from sweep.launches import RUNNING as LIVE
from sweep.launches import read_launches
from sweep.pareto import add_vectors
from sweep.plan import Rates, measured_rates
from sweep.record_schema import NOT_FINISHED
from sweep.records import TRIALS, Records, as_rows
from sweep.searcher import COMPLETE, FAIL, PRUNED, RUNNING
from sweep.summary import front_lines
from sweep.trial_rows import Trial, equals_of, is_unfinished, trial_of_row
from sweep.wording import MOST_ROWS, WORDS, configuration_text
from sweep.worker import known_outcomes
from trainables.storage import Place

KILLED, DAMAGED = "killed", "damaged"
TRIED_AGAIN = "tried again at the next launch"
MOST_DAMAGES = 10
LONGEST_STATE = 40


@dataclass(frozen=True)
class Standing:
    """One study of a storage. `problem` says why the rest is not known."""

    name: str
    state: str
    n_ended: int = 0
    n_failed: int = 0
    n_trials: int = 0
    best: float | None = None
    n_bytes: int = 0
    problem: str = ""


def standing_of(folder: StudyFolder, *, with_disk: bool = True) -> Standing:
    """How the study stands; one whose files are damaged says so, and keeps no other from being listed."""
    try:
        rows = as_rows(Records(folder.root).latest_trials(), TRIALS)
        counts = Counter(_state(row) for row in rows)
        ended = counts[COMPLETE] + counts[PRUNED] + counts[FAIL]
        wanted = max(int(folder.read_description()["samples"]), len(rows))
        best = min((row["objective"] for row in rows if row["objective"] is not None and row["state"] != FAIL), default=None)
        standing = Standing(folder.root.name, state_of(folder, unfinished=ended < wanted), ended, counts[FAIL], wanted, best)
        return replace(standing, n_bytes=disk_of(use_of(folder, rows), None).n_bytes) if with_disk else standing
    except SweepError as error:
        return Standing(folder.root.name, DAMAGED, problem=str(error))


def state_of(folder: StudyFolder, *, unfinished: bool) -> str:
    """In a word or two: what its live launch does, or how its last one ended."""
    entries = read_launches(folder.launches).entries
    last, holder = entries[-1] if entries else None, folder.holder
    if holder is not None:
        begun = last is not None and last.id == holder.note.get("launch")
        return f"{last.state if begun else 'starting'} on {holder.host}"  # type: ignore[union-attr]
    if not unfinished:
        return "finished"
    if last is None:
        return "not finished"
    return KILLED if last.state == LIVE else last.state


def print_status(console: Console, folder: StudyFolder) -> None:
    """How a study stands, what it takes on disk, and what of it is damaged or missing; the rest is shown all the same."""
    checkup = check_study(folder, most_bytes=CHECKED_AT_A_GLANCE)
    damaged = [file for damage in checkup.damages for file in damage.files]
    rows = as_rows(Records(folder.root, leave_out=damaged).latest_trials(), TRIALS)
    wanted = _wanted(folder, rows)
    counts = Counter(_state(row) for row in rows)
    is_live = folder.holder is not None
    words = WORDS if is_live else {**WORDS, RUNNING: NOT_FINISHED}
    counted = WORDS if is_live else {**WORDS, RUNNING: f"{NOT_FINISHED} ({TRIED_AGAIN})"}
    states = ", ".join(f"{counts[state]} {word}" for state, word in counted.items() if counts[state])
    ended = sum(_state(row) in (COMPLETE, PRUNED, FAIL) for row in rows)
    state = _known_state(folder, unfinished=ended < wanted)
    console.print(f"{folder.root.name}: {state}; {states or 'no trial yet'} of {wanted}", highlight=False, soft_wrap=True)
    trials = [trial_of_row(row) for row in rows if row["state"] != FAIL]
    for trial, *equal in equals_of(trials)[:MOST_ROWS]:
        epoch, objective, *_ = trial.best
        configuration = configuration_text(trial.configuration)
        also = f"  equal: {', '.join(other.id for other in equal)}" if equal else ""
        scored_as = f"{objective:.4f} at epoch {epoch}  {words[trial.state]}"
        line = f"  {trial.id}  {scored_as}  {configuration}{also}"
        console.print(line, highlight=False, soft_wrap=True)
    for line in (*_front(folder, trials), f"records: {folder.root}", *_disk(folder, rows), *_damage(folder, checkup)):
        console.print(line, highlight=False, soft_wrap=True)


def _wanted(folder: StudyFolder, rows: Sequence[Mapping[str, Any]]) -> int:
    try:
        return int(folder.read_description()["samples"])
    except (OSError, StudyError):  # `_damage` says so
        return len(rows)


def _known_state(folder: StudyFolder, *, unfinished: bool) -> str:
    try:
        return state_of(folder, unfinished=unfinished)
    except StudyError:
        return DAMAGED


def _front(folder: StudyFolder, trials: Sequence[Trial]) -> list[str]:
    try:
        axes = folder.read_description().get("pareto", ())
        if not axes:
            return []
        add_vectors(trials, axes, known_outcomes(Records(folder.root)))
        return front_lines(trials, axes, in_commands(folder.root))
    except (OSError, SweepError):
        return []


def _disk(folder: StudyFolder, rows: list[dict[str, Any]]) -> list[str]:
    try:
        return [disk_text(disk_of(use_of(folder, rows), measured_rates(folder)))]
    except SweepError:
        return []


def _damage(folder: StudyFolder, checkup: Checkup) -> list[str]:
    """What is damaged or missing, up to MOST_DAMAGES of it, and the way out; nothing for a study that is whole."""
    found = checkup.damages
    lines = [damage.text for damage in found[:MOST_DAMAGES]]
    lines += [f"and {len(found) - MOST_DAMAGES} more"] if len(found) > MOST_DAMAGES else []
    if found:
        lines.append(f"`sweep repair {in_commands(folder.root)}` says what it would do about it, and asks.")
    if checkup.n_bytes_unread and found:
        lines.append(f"{decimal(checkup.n_bytes_unread)} of adapters and pictures were not read here; repair reads them.")
    return lines


def list_table(standings: Iterable[Standing]) -> Table:
    """A row per study."""
    table = Table(header_style="bold")
    for name in ("study", "state", "ended", "failed", "of", "best", "disk"):
        table.add_column(name, justify="left" if name in ("study", "state") else "right", no_wrap=True)
    for s in standings:
        best = "" if s.best is None else f"{s.best:.4f}"
        state = s.state if len(s.state) <= LONGEST_STATE else s.state[: LONGEST_STATE - 3] + "..."
        numbers = ("",) * 5 if s.problem else (str(s.n_ended), str(s.n_failed), str(s.n_trials), best, decimal(s.n_bytes))
        table.add_row(s.name, state, *numbers)
    return table


def standings_in(storage: Place) -> list[Standing]:
    return [standing_of(folder) for folder in studies_in(storage)]


def disk_text(disk: Disk) -> str:
    """On one line: what it takes, and what it would cost to make again."""
    about = "" if disk.pictures_exact else "about "
    parts = f"adapters {decimal(disk.weights_bytes)}, optimiser states {decimal(disk.states_bytes)}, pictures {about}{decimal(disk.pictures_bytes)}"
    if disk.train_s is not None:
        time = f"{duration_text(disk.evaluation_s + disk.train_s)} on one device"
    else:
        time = f"its launches took {duration_text(disk.launches_s)}"
    redo = f"{disk.n_trainings} trainings of {disk.n_epochs} epochs in all and {disk.n_evaluations} evaluations, {time}"
    return f"disk: {parts}; to make it again: {redo}"


def garbage_lines(garbage: Garbage, rates: Rates | None) -> list[str]:
    """What would be collected, and what it would cost to make again."""
    lines = []
    if garbage.unused:
        lines.append(f"{_trainings_text(garbage.unused, rates)} that no study refers to: {decimal(sum(t.n_bytes for t in garbage.unused))}")
    if garbage.ended:
        lines.append(
            f"optimiser states of {_trainings_text(garbage.ended, rates)} that no trial will go on with: {decimal(garbage.states_bytes)}; "
            "their adapters stay, but a study of more epochs would train them from the start (--keep-states keeps them)"
        )
    if garbage.leftovers:
        lines.append(f"{len(garbage.leftovers)} folders that something that was killed left half done")
    return lines


def duration_text(seconds: float) -> str:
    if seconds >= 7200:
        return f"about {seconds / 3600:.1f} hours"
    return f"about {seconds / 60:.0f} minutes" if seconds >= 120 else f"about {math.ceil(seconds)} seconds"


def _trainings_text(trainings: Sequence[Training], rates: Rates | None) -> str:
    n_epochs = sum(training.n_epochs for training in trainings)
    seconds = train_s(n_epochs, rates)
    time = f", {duration_text(seconds)}" if seconds is not None else ""
    return f"{len(trainings)} training{'s' * (len(trainings) != 1)} ({n_epochs} epochs{time})"


def _state(row: dict[str, Any]) -> str:
    """A trial's state; RUNNING for one that ended with its launch, and is tried again."""
    return RUNNING if is_unfinished(row) else row["state"]
