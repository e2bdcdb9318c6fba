"""Leases on training keys: of all processes that share a storage, at most one trains a key, and the others read what it stores.

A lease is a file in the folder of its key, kept fresh by its holder. One whose holder is dead, or silent for STALE_S, may be taken.
For trainings it saves work and nothing more: two holders at once would store the same adapters twice, which is storing them once.
A launch of a study holds one, too: whoever was silent too long finds out by `is_lost` that another has gone on in its place.

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
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from trainables.storage import Place, StorePath, place

REFRESH_S = 10.0
STALE_S = 60.0


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, by its file."""

    host: str
    pid: int
    silent_s: float  # since it last showed that it lives
    note: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_gone(self) -> bool:
        """Silent for too long, or a process of this machine that is dead."""
        return self.silent_s > STALE_S or (self.host == socket.gethostname() and not _is_alive(self.pid))


class Leases:
    """The leases of one process. `note` is JSON that others may read; `clock` tells seconds since 1970, as file times do; a store has its own."""

    def __init__(self, root: Place | str, *, note: Mapping[str, Any] | None = None, clock: Callable[[], float] = time.time) -> None:
        root, claim = place(root), {"host": socket.gethostname(), "pid": os.getpid(), "token": uuid.uuid4().hex, "note": dict(note or {})}
        self._claims: _Claims = _ObjectClaims(root, claim) if isinstance(root, StorePath) else _FileClaims(root, claim, clock)
        self._held: set[str] = set()
        self._lock = threading.Lock()
        self._refresher: threading.Thread | None = None

    def acquire(self, key: str, *, dead: Collection[str] = ()) -> bool:
        """Whether this process now holds the key's lease (or already did). `dead`: owners, as their `note` names them, that are known to
        be gone, wherever they were: theirs need not grow stale first."""
        with self._lock:
            if key in self._held:
                return True
            if not self._claims.take(key, dead):
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

    def refresh(self) -> None:
        """Show that the holder of these leases lives. One that another has taken is left to it."""
        with self._lock:
            for key in self._held:
                self._claims.touch(key)

    def is_lost(self, key: str) -> bool:
        """Whether another has taken a lease that this process held, which must then leave alone what it stood for."""
        return key in self._held and self._claims.is_anothers(key)

    def holder(self, key: str) -> Holder | None:
        """Who holds the key's lease, in whatever process; None where nobody does, or one that is dead or silent for STALE_S."""
        return self._claims.holder(key)

    def _refresh_for_ever(self) -> None:
        while True:
            time.sleep(REFRESH_S)
            with self._lock:
                if not self._held:
                    self._refresher = None
                    return
            try:
                self.refresh()
            except OSError:  # the storage is away; what needs it says so
                continue


class _Claims(Protocol):
    """How a lease is written down. Whoever calls holds the lock of its Leases."""

    def take(self, key: str, dead: Collection[str]) -> bool: ...

    def touch(self, key: str) -> None: ...

    def drop(self, key: str) -> None: ...

    def holder(self, key: str) -> Holder | None: ...

    def is_anothers(self, key: str) -> bool: ...


class _FileClaims:
    """One file for each key, which only one process can create."""

    def __init__(self, root: Path, claim: Mapping[str, Any], clock: Callable[[], float]) -> None:
        self._root, self._claim, self._clock = root, claim, clock

    def take(self, key: str, dead: Collection[str]) -> bool:
        return self._create(key) or (_is_free(self.holder(key), dead) and self._take_over(key))

    def touch(self, key: str) -> None:
        try:
            if not self.is_anothers(key):
                os.utime(self._path(key), (self._clock(),) * 2)
        except FileNotFoundError:  # somebody removed the store's folder
            self._create(key)

    def drop(self, key: str) -> None:
        if not self.is_anothers(key):
            self._path(key).unlink(missing_ok=True)

    def holder(self, key: str) -> Holder | None:
        try:
            silent_s = self._clock() - self._path(key).stat().st_mtime
            found = _holder_of(self._path(key).read_bytes(), silent_s)
        except FileNotFoundError:
            return None
        return None if found.is_gone else found

    def is_anothers(self, key: str) -> bool:
        try:
            return json.loads(self._path(key).read_text(encoding="utf-8")).get("token") != self._claim["token"]
        except (FileNotFoundError, ValueError):  # gone, or just being written
            return False

    def _path(self, key: str) -> Path:
        return self._root / key / ".lease"

    def _create(self, key: str) -> bool:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "x", encoding="utf-8") as file:
                json.dump(self._claim, file)
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
        return self._create(key) and not self.is_anothers(key)


class _ObjectClaims:
    """Any number of objects for each key, of one claimant each: .lease/<host>-<pid>-<token>."""

    def __init__(self, root: StorePath, claim: Mapping[str, Any]) -> None:
        self._root, self._claim = root, claim
        self._host = re.sub(r"[^A-Za-z0-9.]", "_", claim["host"])
        self._own = f"{self._host}-{claim['pid']}-{claim['token']}"

    def take(self, key: str, dead: Collection[str]) -> bool:
        self._write(key)
        if not all(_is_free(self._holder_by(key, name), dead) for name in self._others(key)):
            self.drop(key)
            return False
        return True

    def touch(self, key: str) -> None:
        if not self.is_anothers(key):
            self._write(key)

    def drop(self, key: str) -> None:
        (self._folder(key) / self._own).unlink(missing_ok=True)

    def holder(self, key: str) -> Holder | None:
        ages = self._fresh(key)
        found = (self._holder_by(key, name, ages[name]) for name in sorted(ages, key=lambda name: name != self._own))
        return next((holder for holder in found if holder is not None), None)

    def _holder_by(self, key: str, name: str, silent_s: float = 0.0) -> Holder | None:
        try:
            return _holder_of((self._folder(key) / name).read_bytes(), silent_s)
        except FileNotFoundError:  # given back just now
            return None

    def is_anothers(self, key: str) -> bool:
        fresh = self._fresh(key)
        return bool(fresh) and self._own not in fresh

    def _write(self, key: str) -> None:
        (self._folder(key) / self._own).write_bytes(json.dumps(self._claim).encode())

    def _others(self, key: str) -> list[str]:
        return sorted(set(self._fresh(key)) - {self._own})

    def _fresh(self, key: str) -> dict[str, float]:
        """Seconds since each claim was renewed, of those that hold. Who claims the key, too, removes the stale ones."""
        times = {path.name: stat.st_mtime for path, stat in self._folder(key).children() if path.name.count("-") >= 2}
        now = times.get(self._own, time.time())  # our own is as young as the listing, by the same clock as the others
        ages = {name: now - renewed for name, renewed in times.items()}
        stale = {name for name in ages if name != self._own and (self._is_dead(name) or ages[name] > STALE_S)}
        for name in stale if self._own in times else ():
            (self._folder(key) / name).unlink(missing_ok=True)
        return {name: age for name, age in ages.items() if name not in stale}

    def _is_dead(self, name: str) -> bool:
        host, pid, _ = name.rsplit("-", 2)
        return host == self._host and not _is_alive(int(pid))

    def _folder(self, key: str) -> StorePath:
        return self._root / key / ".lease"


def _is_free(holder: Holder | None, dead: Collection[str]) -> bool:
    return holder is None or holder.note.get("owner", "") in dead


def _holder_of(claim: bytes, silent_s: float) -> Holder:
    try:
        said = json.loads(claim)
        return Holder(str(said["host"]), int(said["pid"]), silent_s, said.get("note") or {})
    except (ValueError, TypeError, KeyError):  # its writer was interrupted, or is just writing
        return Holder("an unknown machine", 0, silent_s)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0
