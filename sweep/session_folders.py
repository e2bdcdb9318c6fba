"""The folder of a launch in /tmp, where its Ray has its sockets and logs, and those that launches left behind which were killed.

A folder belongs to the launch that holds its lock, which the kernel gives back when that process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil

PREFIX = "sweep-ray-"
LOCK = ".launch"
YOUNG_S = 3600.0
"""A folder without a lock, as versions had before it was there, or one that is just being made, is left alone for so long."""


def new_session_folder(*, parent: Path | None = None, clock: Callable[[], float] = time.time) -> tuple[str, int]:
    """A fresh one, and the descriptor that holds its lock: close it last. Removes those whose launches have ended."""
    # Sockets lie in there, whose paths may have 107 characters.
    parent = parent or Path("/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir())
    remove_left_behind(parent, clock=clock)
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=parent)
    try:
        lock = os.open(Path(folder) / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder, lock


def remove_left_behind(parent: Path, *, clock: Callable[[], float] = time.time) -> list[str]:
    """Remove the folders whose launches have ended, and whose processes too; returns them."""
    removed = [folder for folder in _folders(parent) if _is_left_behind(folder, clock())]
    in_use = _commands() if removed else ""
    removed = [folder for folder in removed if str(folder) not in in_use]
    for folder in removed:
        shutil.rmtree(folder, ignore_errors=True)
    return [str(folder) for folder in removed]


def _folders(parent: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            is_ours = entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False)
            if is_ours and entry.stat(follow_symlinks=False).st_uid == os.getuid():
                yield Path(entry.path)


def _is_left_behind(folder: Path, now: float) -> bool:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR)
    except FileNotFoundError:
        return now - folder.stat().st_mtime > YOUNG_S
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:  # its launch lives, in whatever container
        return False
    finally:
        os.close(lock)


def _commands() -> str:
    """What runs here: Ray's processes are called with their session's folder, and outlive a launch that was killed by a little."""
    return "\n".join(" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
