"""Leases on training keys: of all processes that share a storage, at most one trains a key, and the others read what it stores.

A lease is a file beside the adapters, kept fresh by its holder. One whose holder is dead, or silent for STALE_S, may be taken.
It saves work and nothing more: two holders at once would store the same adapters twice, which is storing them once."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

REFRESH_S = 10.0
STALE_S = 60.0


class Leases:
    """The leases of one process. `clock` tells seconds since 1970, as file times do; `owner` is a name that is its own everywhere."""

    def __init__(self, root: Path, *, owner: str = "", clock: Callable[[], float] = time.time) -> None:
        self._root = Path(root)
        self._owner = owner
        self._clock = clock
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._refresher: threading.Thread | None = None

    def acquire(self, key: str, *, dead: Collection[str] = ()) -> bool:
        """Whether this process now holds the key's lease (or already did). `dead`: owners known to be gone, wherever they were."""
        with self._lock:
            if key in self._held:
                return True
            if not self._create(key) and not (self._is_stale(key, dead) and self._take_over(key)):
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
                self._path(key).unlink(missing_ok=True)

    def refresh(self) -> None:
        """Show that the holder of these leases lives."""
        with self._lock:
            for key in self._held:
                try:
                    os.utime(self._path(key), (self._clock(),) * 2)
                except FileNotFoundError:  # somebody removed the store's folder
                    self._create(key)

    def _refresh_for_ever(self) -> None:
        while True:
            time.sleep(REFRESH_S)
            with suppress(OSError):  # a storage that is away may be back the next time
                self.refresh()

    def _path(self, key: str) -> Path:
        return self._root / key / ".lease"

    def _create(self, key: str) -> bool:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "x", encoding="utf-8") as file:
                json.dump({"host": socket.gethostname(), "pid": os.getpid(), "owner": self._owner}, file)
        except FileExistsError:
            return False
        os.utime(path, (self._clock(),) * 2)
        return True

    def _is_stale(self, key: str, dead: Collection[str]) -> bool:
        try:
            silent_s = self._clock() - self._path(key).stat().st_mtime
            holder = json.loads(self._path(key).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return True
        except ValueError:  # its writer was interrupted, or is just writing
            return silent_s > STALE_S
        if holder.get("owner") and holder["owner"] in dead:
            return True
        here = holder.get("host") == socket.gethostname()
        return silent_s > STALE_S or (here and not _is_alive(int(holder.get("pid", 0))))

    def _take_over(self, key: str) -> bool:
        # Of two that find a lease stale, the rename lets one win.
        aside = self._path(key).with_name(f".stale-{uuid.uuid4().hex}")
        try:
            os.rename(self._path(key), aside)
        except FileNotFoundError:
            pass
        aside.unlink(missing_ok=True)
        return self._create(key)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0
