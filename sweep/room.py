"""A disk that takes no more, in one line: what is free, and what the rest of a study needs. Knows sizes, not who writes."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rich.filesize import decimal

from sweep.disk import disk_of, use_of
from sweep.errors import DiskError, SweepError
from sweep.records import TRIALS, Records, as_rows
from sweep.trial_rows import is_unfinished
from trainables.storage import Place, refused_write

if TYPE_CHECKING:
    from sweep.folder import StudyFolder

WORDS = {errno.ENOSPC: "is full", errno.EDQUOT: "is over its quota", errno.EROFS: "is read-only"}
WAYS_OUT = {
    errno.ENOSPC: "Make room (`sweep gc` collects what no study needs)",
    errno.EDQUOT: "Make room (`sweep gc` collects what no study needs) or have the quota raised",
    errno.EROFS: "Mount it for writing, or choose another place with --storage DIR",
}


def refusal_of(error: BaseException) -> DiskError | None:
    """The refused write behind an error, if there is one."""
    if isinstance(error, DiskError):
        return error
    refused = refused_write(error)
    return None if refused is None else DiskError.of(refused, str(error))


def disk_error(refusal: DiskError, folder: StudyFolder, n_trials: int) -> DiskError:
    """The line for whoever launched: which disk, what is free, and what the study needs still."""
    number, where = refusal.number, refusal.path or folder.here
    free, needed = _free_bytes(where), bytes_needed(folder, n_trials)
    room = "" if number == errno.EROFS else f" ({decimal(free)} free{f'; the rest of the study needs about {decimal(needed)}' if needed else ''})"
    is_ours = number == errno.EROFS or f"{where}/".startswith(f"{folder.storage}/")
    way_out = WAYS_OUT[number] if is_ours else "Make room there"
    return DiskError(
        f"A launch must be able to write until it ends, but the disk of {where} {WORDS[number]}{room}. {way_out}, and launch the "
        "study again: it goes on, and no trial has failed.",
        number=number,
        path=str(where),
    )


def bytes_needed(folder: StudyFolder, n_trials: int) -> int | None:
    """What is left of a study of so many trials will take, if a trial takes as much as those so far; None where nothing is stored yet."""
    try:
        rows = as_rows(Records(folder.root).latest_trials(), TRIALS)
        n_scored, n_ended = sum(bool(row["rung_values"]) for row in rows), sum(not is_unfinished(row) for row in rows)
        return round(disk_of(use_of(folder, rows), None).n_bytes / max(1, n_scored) * max(1, n_trials - n_ended)) or None
    except (SweepError, OSError):
        return None


def _free_bytes(where: str | Place) -> int:
    """On the disk of a folder, or of the first one above that is there."""
    path = Path(os.path.abspath(str(where)))
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free
