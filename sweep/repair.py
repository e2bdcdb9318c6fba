"""Making a study whole again: what is damaged is put aside, what a launch does not write is written, the rest is for a launch to compute.

What is damaged or missing damage.py finds. Nothing is deleted but caches: damaged files go to damaged/ in the study's folder."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweep.damage import Checkup, Damage, Remedy
from sweep.errors import RecordsError, StudyError, SweepError
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.launches import Request, read_launches
from sweep.record_files import in_commands, write_atomically
from sweep.records import TRIALS, Records, as_rows
from sweep.study import Study, load_study
from sweep.study_file import read_source
from trainables.storage import Place, line_of, reason_of

ASIDE = "damaged"
COMPUTED = (Remedy.TRIED, Remedy.SCORED, Remedy.TRAINED)
"""What is made whole by a launch."""

MOST_NAMED = 5


@dataclass(frozen=True)
class ToCompute:
    """What a launch is asked for beyond what it would do: evaluations that are recorded, adapters of trials that have ended."""

    evaluation_keys: frozenset[str]
    adapters: frozenset[tuple[str, int]]
    is_needed: bool


def repair_lines(damages: Iterable[Damage]) -> list[str]:
    """What is damaged or missing and what is done about it: a line for each remedy, and up to MOST_NAMED parts by name."""
    by_remedy: dict[Remedy, list[Damage]] = defaultdict(list)
    for damage in damages:
        by_remedy[damage.remedy].append(damage)
    lines = []
    for remedy in Remedy:
        found = by_remedy[remedy]
        named = ", ".join(damage.text for damage in found[:MOST_NAMED])
        more = f", and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        lines += [f"{named}{more}: {remedy.value}"] if found else []
    return lines


def put_aside(folder: StudyFolder, damages: Iterable[Damage], *, clock: Callable[[], float] = time.time) -> Place:
    """Move the damaged files into a folder of their own in the study's, which is returned. Who calls holds the study.

    Raises:
        RecordsError: a file cannot be moved; those before it have been."""
    aside = folder.root / ASIDE / time.strftime("%Y%m%d-%H%M%S", time.gmtime(clock()))
    for damage in damages:
        for file in damage.files:
            try:
                _move(file, aside / _name_aside(folder, file))
            except OSError as error:
                raise RecordsError(
                    f"A damaged file is put aside before it is made again, but {file} cannot be moved to {aside}: {reason_of(error)}. "
                    "Change its permissions or make room, and repair again."
                ) from error
    return aside


def restore_texts(folder: StudyFolder, damages: Iterable[Damage]) -> list[str]:
    """Write description and source again, where they can be; returns a line for each that cannot. Who calls holds the study."""
    problems = []
    remedies = {damage.remedy for damage in damages}
    for remedy, restore in ((Remedy.SOURCE, _restore_source), (Remedy.DESCRIPTION, _restore_description)):
        if remedy in remedies:
            try:
                restore(folder)
            except SweepError as error:
                problems.append(str(error))
            except OSError as error:
                problems.append(line_of(error))
    return problems


def to_compute(checkup: Checkup) -> ToCompute:
    """What a launch has to make whole, once the damaged files are put aside."""
    computed = [damage for damage in checkup.damages if damage.remedy in COMPUTED]
    return ToCompute(
        frozenset().union(*(damage.evaluation_keys for damage in computed)),
        frozenset(damage.adapter for damage in computed if damage.adapter is not None),
        bool(computed),
    )


def request_of(folder: StudyFolder) -> Request:
    """How the study was asked for; nothing where that is damaged."""
    try:
        return read_launches(folder.launches).request
    except StudyError:  # nor put aside yet
        return Request()


# ---- private


def _name_aside(folder: StudyFolder, file: Place) -> str:
    """The file's path within the study or, of what is shared, within the storage."""
    for above in (folder.root, folder.storage, folder.here.parent):
        if str(file).startswith(f"{above}/"):
            return str(file).removeprefix(f"{above}/")
    return file.name


def _move(file: Place, target: Place) -> None:
    if isinstance(file, Path) and isinstance(target, Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
    else:
        target.write_bytes(file.read_bytes())
        file.unlink(missing_ok=True)


def _study_of(folder: StudyFolder, source: str) -> Study:
    request = request_of(folder)
    return load_study(request.file or str(folder.source), {**request.overrides, "name": folder.root.name}, source=source)


def _restore_source(folder: StudyFolder) -> None:
    """From the file that was launched, if it still says what the description does."""
    request, own = request_of(folder), in_commands(folder.root)
    way_out = f"Launch it with `sweep launch STUDY.py --name {own}`, which stores it."
    if not request.file or not Path(request.file).is_file():
        raise StudyError(f"study.py is copied from the study's file, but {request.file or 'its place'} is not there any more. {way_out}")
    source = read_source(Path(request.file))
    described, known = _study_of(folder, source).describe(), folder.read_description()
    if changed := [field for field, value in described.items() if known.get(field) != value]:
        raise StudyError(f"study.py is copied from the study's file, but {request.file} has changed in {', '.join(changed)}. {way_out}")
    write_atomically(folder.source, lambda file: file.write(source.encode()))


def _restore_description(folder: StudyFolder) -> None:
    """From the source, if the records are of what it says."""
    study = _study_of(folder, read_source(folder.source))
    keys = Keys(study)
    trials = as_rows(Records(folder.root, skip_damaged=True).latest_trials(), TRIALS)
    known = [row for row in trials if row["training_key"]]
    if known and not any(_training_key(keys, row) == row["training_key"] for row in known):
        raise StudyError(
            f"study.json is written from study.py, but the trainings of {folder.root.name}'s records are not those of {folder.source}, its "
            "subject and models: one of them has changed. Restore it, or launch the study under another --name."
        )
    folder.write_description(study, keys.content_digests())


def _training_key(keys: Keys, row: Mapping[str, Any]) -> str | None:
    try:
        return keys.subscription(row["trial"], row["configuration"] or {}).training_key
    except SweepError:
        return None
