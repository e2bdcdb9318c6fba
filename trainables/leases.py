"""Leases on training keys: of all processes that share a storage, at most one trains a key, and the others read what it stores.

A lease is a file beside the adapters, kept fresh by its holder. One whose holder is dead, or silent for STALE_S, may be taken.
It saves work and nothing more: two holders at once would store the same adapters twice, which is storing them once.

Where the storage is a store, which cannot create a file only if there is none, everybody who wants a lease writes a claim of his own and
then lists them: he holds it if no other is fresh, and else takes his own away. A store lists all that was written before, so two that live
never hold the same; of two at the same moment it may be neither, until one of them asks again. Fresh is meant by the store's clock."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from trainables.storage import Place, StorePath, place

REFRESH_S = 10.0
STALE_S = 60.0


class Leases:
    """The leases of one process. `clock` tells seconds since 1970, as file times do; a store has its own."""

    def __init__(self, root: Place | str, *, clock: Callable[[], float] = time.time) -> None:
        root = place(root)
        self._claims: _Claims = _ObjectClaims(root) if isinstance(root, StorePath) else _FileClaims(root, clock)
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._refresher: threading.Thread | None = None

    def acquire(self, key: str) -> bool:
        """Whether this process now holds the key's lease (or already did)."""
        with self._lock:
            if key in self._held:
                return True
            if not self._claims.take(key):
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
                self._claims.drop(key)

    def is_held(self, key: str) -> bool:
        """Whether a process that lives holds the key's lease."""
        return self._claims.is_held(key)

    def refresh(self) -> None:
        """Show that the holder of these leases lives."""
        with self._lock:
            for key in self._held:
                self._claims.touch(key)

    def _refresh_for_ever(self) -> None:
        while True:
            time.sleep(REFRESH_S)
            try:
                self.refresh()
            except OSError:  # the storage is away; what needs it says so
                continue


class _Claims(Protocol):
    def take(self, key: str) -> bool: ...

    def touch(self, key: str) -> None: ...

    def drop(self, key: str) -> None: ...

    def is_held(self, key: str) -> bool: ...


class _FileClaims:
    """One file for each key, which only one process can create."""

    def __init__(self, root: Path, clock: Callable[[], float]) -> None:
        self._root = root
        self._clock = clock

    def take(self, key: str) -> bool:
        return self._create(key) or (not self.is_held(key) and self._take_over(key))

    def touch(self, key: str) -> None:
        try:
            os.utime(self._path(key), (self._clock(),) * 2)
        except FileNotFoundError:  # somebody removed the store's folder
            self._create(key)

    def drop(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def is_held(self, key: str) -> bool:
        try:
            silent_s = self._clock() - self._path(key).stat().st_mtime
            holder = json.loads(self._path(key).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return False
        except ValueError:  # its writer was interrupted, or is just writing
            return silent_s <= STALE_S
        here = holder.get("host") == socket.gethostname()
        return silent_s <= STALE_S and not (here and not _is_alive(int(holder.get("pid", 0))))

    def _path(self, key: str) -> Path:
        return self._root / key / ".lease"

    def _create(self, key: str) -> bool:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "x", encoding="utf-8") as file:
                json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
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
        return self._create(key)


class _ObjectClaims:
    """Any number of objects for each key, of one claimant each: .lease/<host>-<pid>-<a name of its own>."""

    def __init__(self, root: StorePath) -> None:
        self._root = root
        self._host = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())
        self._own = f"{self._host}-{os.getpid()}-{uuid.uuid4().hex}"

    def take(self, key: str) -> bool:
        self.touch(key)
        if self._others(key):
            self.drop(key)
            return False
        return True

    def touch(self, key: str) -> None:
        (self._folder(key) / self._own).write_bytes(b"{}")

    def drop(self, key: str) -> None:
        (self._folder(key) / self._own).unlink(missing_ok=True)

    def is_held(self, key: str) -> bool:
        return bool(self._others(key))

    def _others(self, key: str) -> list[str]:
        """The fresh claims of others; who claims the key, too, removes the stale ones."""
        times = {path.name: stat.st_mtime for path, stat in self._folder(key).children() if path.name.count("-") >= 2}
        now = times.get(self._own, time.time())  # our own is as young as the listing, by the same clock as the others
        others = {name for name in times if name != self._own}
        stale = {name for name in others if self._is_dead(name) or now - times[name] > STALE_S}
        for name in stale if self._own in times else ():
            (self._folder(key) / name).unlink(missing_ok=True)
        return sorted(others - stale)

    def _is_dead(self, name: str) -> bool:
        host, pid, _ = name.rsplit("-", 2)
        return host == self._host and not _is_alive(int(pid))

    def _folder(self, key: str) -> StorePath:
        return self._root / key / ".lease"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0
