"""Leases on training keys: of all processes that share a storage, at most one trains a key, and the others read what it stores.

A lease is a file in the folder of its key, kept fresh by its holder. One whose holder is dead, or silent for STALE_S, may be taken.
For trainings it saves work and nothing more: two holders at once would store the same adapters twice, which is storing them once.
A launch of a study holds one, too: whoever was silent too long finds out by `is_lost` that another has gone on in its place."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REFRESH_S = 10.0
STALE_S = 60.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, by its file."""

    host: str
    pid: int
    silent_s: float  # since it last showed that it lives
    note: Mapping[str, Any] = field(default_factory=dict)


class Leases:
    """The leases of one process. `clock` tells seconds since 1970, as file times do; `note` is JSON that others may read."""

    def __init__(self, root: Path, *, note: Mapping[str, Any] | None = None, clock: Callable[[], float] = time.time) -> None:
        self._root = Path(root)
        self._note = dict(note or {})
        self._clock = clock
        self._token = uuid.uuid4().hex
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._refresher: threading.Thread | None = None

    def acquire(self, key: str) -> bool:
        """Whether this process now holds the key's lease (or already did)."""
        with self._lock:
            if key in self._held:
                return True
            if not self._create(key) and not (self.holder(key) is None and self._take_over(key)):
                return False
            self._held.add(key)
            if self._refresher is None:
                self._refresher = threading.Thread(target=self._refresh_for_ever, daemon=True)
                self._refresher.start()
            return True

    def release(self, key: str) -> None:
        """Give a lease back. One that is not held is no error."""
        with self._lock:
            if key in self._held:
                self._held.remove(key)
                if not self._is_anothers(key):
                    self._path(key).unlink(missing_ok=True)

    def refresh(self) -> None:
        """Show that the holder of these leases lives. One that another has taken is left to it."""
        with self._lock:
            for key in self._held:
                try:
                    if not self._is_anothers(key):
                        os.utime(self._path(key), (self._clock(),) * 2)
                except FileNotFoundError:  # somebody removed the store's folder
                    self._create(key)

    def is_lost(self, key: str) -> bool:
        """Whether another has taken a lease that this process held, which must then leave alone what it stood for."""
        return key in self._held and self._is_anothers(key)

    def holder(self, key: str) -> Holder | None:
        """Who holds the key's lease, in whatever process; None where nobody does, or one that is dead or silent for STALE_S."""
        try:
            silent_s = self._clock() - self._path(key).stat().st_mtime
            said = json.loads(self._path(key).read_text(encoding="utf-8"))
            found = Holder(str(said["host"]), int(said["pid"]), silent_s, said.get("note") or {})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError):  # its writer was interrupted, or is just writing
            return None if silent_s > STALE_S else Holder("an unknown machine", 0, silent_s)
        is_dead = found.host == socket.gethostname() and not _is_alive(found.pid)
        return None if is_dead or silent_s > STALE_S else found

    def _refresh_for_ever(self) -> None:
        while True:
            time.sleep(REFRESH_S)
            with self._lock:
                if not self._held:
                    self._refresher = None
                    return
            self.refresh()

    def _path(self, key: str) -> Path:
        return self._root / key / ".lease"

    def _create(self, key: str) -> bool:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "x", encoding="utf-8") as file:
                json.dump({"host": socket.gethostname(), "pid": os.getpid(), "token": self._token, "note": self._note}, file)
        except FileExistsError:
            return False
        os.utime(path, (self._clock(),) * 2)
        return True

    def _take_over(self, key: str) -> bool:
        # Of two that find a lease stale, the rename lets one win.
        aside = self._path(key).with_name(f".stale-{uuid.uuid4().hex}")
        try:
            os.rename(self._path(key), aside)
        except FileNotFoundError:
            pass
        aside.unlink(missing_ok=True)
        return self._create(key) and not self._is_anothers(key)

    def _is_anothers(self, key: str) -> bool:
        try:
            return json.loads(self._path(key).read_text(encoding="utf-8")).get("token") != self._token
        except (FileNotFoundError, ValueError):  # gone, or just being written
            return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0
