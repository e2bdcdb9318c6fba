"""Leases on keys: of all processes that share a storage, at most one holds a key, and the others
leave alone what it stands for.

A lease is a file in the folder of its key, which its holder refreshes. Another process may take the
lease once its holder is silent for STALE_S, or at once where it can tell that the holder has ended
(trainables/processes.py). For trainings a lease saves work and nothing more: two holders would
store the same adapters twice. A launch of a study holds one, too, and asks `is_lost` before it
writes: a holder that slept too long has lost its lease for good, even if whoever took it has given
it back since.

A store cannot create a file only if there is none. There each claimant writes a claim of its own
and lists them all: it holds the lease if no other claim is fresh, and else removes its own. Two
simultaneous claimants may both back off and must retry. Freshness is measured by the store's
clock."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from trainables.processes import ProcessIdentity
from trainables.storage import Place, StorePath, patiently, place

REFRESH_S = 10.0
STALE_S = 60.0
LEASE = ".lease"
"""The file, or in a store the prefix, in the folder of a key."""

_UNKNOWN = ProcessIdentity("an unknown machine", 0)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, by its file."""

    process: ProcessIdentity
    silent_s: float  # since it last showed that it lives
    note: Mapping[str, Any] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.process.host

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_gone(self) -> bool:
        """Silent for too long, or known to have ended."""
        return self.silent_s > STALE_S or self.process.has_ended


class Leases:
    """The leases of one process. `note` is JSON that others may read; `clock` tells seconds since
    1970, as file times do; a store has its own."""

    def __init__(
        self,
        root: Place | str,
        *,
        note: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        root = place(root)
        process = ProcessIdentity.of_this_process()
        claim = {**process.to_json(), "token": uuid.uuid4().hex, "note": dict(note or {})}
        self._claims: _Claims = (
            _ObjectClaims(root, claim)
            if isinstance(root, StorePath)
            else _FileClaims(root, claim, clock)
        )
        self._clock = clock
        self._held: dict[str, float] = {}  # key -> when it was last refreshed
        self._lost: set[str] = set()
        self._lock = threading.Lock()
        self._refresher: threading.Thread | None = None

    def acquire(self, key: str, *, dead: Collection[str] = ()) -> bool:
        """Whether this process now holds the key's lease (or already did). `dead`: owners, as their
        `note` names them, that are known to have ended, wherever they were: their leases need not
        grow stale first."""
        with self._lock:
            if key in self._held:
                return True
            if not self._claims.take(key, dead):
                return False
            self._held[key] = self._clock()
            self._lost.discard(key)
            if self._refresher is None:
                self._refresher = threading.Thread(target=self._refresh_for_ever, daemon=True)
                self._refresher.start()
            return True

    def release(self, key: str) -> None:
        """Give a lease back. One that is not held is no error."""
        with self._lock:
            if key in self._held:
                del self._held[key]
                self._claims.drop(key)

    def refresh(self) -> None:
        """Show that the holder of these leases lives. A lease that another process has taken is
        left to it."""
        with self._lock:
            for key in list(self._held):
                self._renew(key)

    def is_lost(self, key: str) -> bool:
        """Whether another process has taken, or may have had, a lease that this one held. It must
        then leave alone what that stands for.

        Raises:
            OSError: the storage does not answer."""
        with self._lock:
            if key in self._held:
                patiently(
                    lambda: self._renew(key) if self._has_slept(key) else self._notice_loss(key),
                    key,
                )
            return key in self._lost

    def holder(self, key: str) -> Holder | None:
        """Who holds the key's lease, in whatever process; None where nobody does, or one that has
        ended or is silent for STALE_S."""
        return self._claims.holder(key)

    def claimants(self, key: str) -> list[Holder]:
        """Everybody whose claim to the key is there, fresh or not: nobody has taken the lease of
        these."""
        return self._claims.claimants(key)

    # ---- private

    def _renew(self, key: str) -> None:
        has_slept = self._has_slept(key)
        if self._notice_loss(key):
            return
        self._claims.touch(key)
        # Another process may have found it stale just before.
        if not (has_slept and self._notice_loss(key)):
            self._held[key] = self._clock()

    def _notice_loss(self, key: str) -> bool:
        standing = self._claims.standing(key, has_slept=self._has_slept(key))
        # Where no claim is left, somebody has removed the folder. Unless this process slept: then
        # another may have come and gone.
        is_lost = standing is _Standing.ANOTHERS or (
            standing is _Standing.NOBODYS and self._has_slept(key)
        )
        if is_lost:
            del self._held[key]
            self._lost.add(key)
            self._claims.drop(key)
        return is_lost

    def _has_slept(self, key: str) -> bool:
        """Whether the lease was not refreshed for so long that another process may take it."""
        return self._clock() - self._held[key] > STALE_S

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


class _Standing(Enum):
    """Whose a lease is, seen by a process that has acquired it."""

    OURS = "ours"
    ANOTHERS = "another's"
    NOBODYS = "nobody's"


class _Claims(Protocol):
    """How a lease is written down. The caller holds the lock of its Leases."""

    def take(self, key: str, dead: Collection[str]) -> bool: ...

    def touch(self, key: str) -> None: ...

    def drop(self, key: str) -> None: ...

    def holder(self, key: str) -> Holder | None: ...

    def claimants(self, key: str) -> list[Holder]: ...

    def standing(self, key: str, *, has_slept: bool = False) -> _Standing: ...


class _FileClaims:
    """One file for each key, which only one process can create."""

    def __init__(self, root: Path, claim: Mapping[str, Any], clock: Callable[[], float]) -> None:
        self._root, self._claim, self._clock = root, claim, clock

    def take(self, key: str, dead: Collection[str]) -> bool:
        if self._create(key):
            return True
        try:
            found = self._path(key).read_bytes()
        except FileNotFoundError:  # given back just now
            return self._create(key)
        return _is_free(self.holder(key), dead) and self._take_over(key, found)

    def touch(self, key: str) -> None:
        try:
            os.utime(self._path(key), (self._clock(),) * 2)
        except FileNotFoundError:  # somebody removed the store's folder
            self._create(key)

    def drop(self, key: str) -> None:
        if self.standing(key) is _Standing.OURS:
            self._path(key).unlink(missing_ok=True)

    def holder(self, key: str) -> Holder | None:
        return next((found for found in self.claimants(key) if not found.is_gone), None)

    def claimants(self, key: str) -> list[Holder]:
        try:
            silent_s = self._clock() - self._path(key).stat().st_mtime
            return [_holder_of(self._path(key).read_bytes(), silent_s)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def standing(self, key: str, *, has_slept: bool = False) -> _Standing:
        try:
            return (
                _Standing.OURS if self._is_our(self._path(key).read_bytes()) else _Standing.ANOTHERS
            )
        except FileNotFoundError:
            return _Standing.NOBODYS

    def _is_our(self, content: bytes) -> bool:
        try:
            return json.loads(content).get("token") == self._claim["token"]
        except (ValueError, AttributeError):  # another is just writing its own
            return False

    def _path(self, key: str) -> Path:
        return self._root / key / LEASE

    def _create(self, key: str) -> bool:
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "x", encoding="utf-8") as file:
                json.dump(self._claim, file)
        except FileExistsError:
            return False
        except OSError:  # a full disk: half a lease would keep others out
            path.unlink(missing_ok=True)
            raise
        os.utime(path, (self._clock(),) * 2)
        return True

    def _take_over(self, key: str, stale: bytes) -> bool:
        # Of two that find a lease stale, the rename lets one win. The other one has then renamed
        # the winner's, and puts it back.
        aside = self._path(key).with_name(f".stale-{uuid.uuid4().hex}")
        try:
            os.rename(self._path(key), aside)
            if aside.read_bytes() != stale:
                os.rename(aside, self._path(key))
                return False
        except FileNotFoundError:
            pass
        aside.unlink(missing_ok=True)
        return self._create(key) and self.standing(key) is _Standing.OURS


class _ObjectClaims:
    """Any number of objects for each key, of one claimant each: .lease/<host>-<pid>-<token>."""

    def __init__(self, root: StorePath, claim: Mapping[str, Any]) -> None:
        self._root, self._claim = root, claim
        host = re.sub(r"[^A-Za-z0-9.]", "_", claim["host"])
        self._own = f"{host}-{claim['pid']}-{claim['token']}"

    def take(self, key: str, dead: Collection[str]) -> bool:
        self.touch(key)
        others, stale = self._others(key)
        for name in stale:
            (self._folder(key) / name).unlink(missing_ok=True)
        if not all(_is_free(holder, dead) for holder in others):
            self.drop(key)
            return False
        return True

    def touch(self, key: str) -> None:
        (self._folder(key) / self._own).write_bytes(json.dumps(self._claim).encode())

    def drop(self, key: str) -> None:
        (self._folder(key) / self._own).unlink(missing_ok=True)

    def holder(self, key: str) -> Holder | None:
        own_first = sorted(
            self._claims(key).items(), key=lambda claim: (claim[0] != self._own, claim[0])
        )
        return next((holder for _, holder in own_first if not holder.is_gone), None)

    def claimants(self, key: str) -> list[Holder]:
        return list(self._claims(key).values())

    def standing(self, key: str, *, has_slept: bool = False) -> _Standing:
        claims = self._claims(key)
        is_there = claims.pop(self._own, None) is not None
        # A claim beside a fresh one of ours is of somebody who asks, and backs off; beside a stale
        # one it may have taken the lease.
        if any(not holder.is_gone for holder in claims.values()) and (has_slept or not is_there):
            return _Standing.ANOTHERS
        return _Standing.OURS if is_there else _Standing.NOBODYS

    def _others(self, key: str) -> tuple[list[Holder], list[str]]:
        """Of the other claimants those that hold it, and the names of the claims of those that are
        gone."""
        others = {name: holder for name, holder in self._claims(key).items() if name != self._own}
        return [h for h in others.values() if not h.is_gone], [
            name for name, h in others.items() if h.is_gone
        ]

    def _claims(self, key: str) -> dict[str, Holder]:
        """Every claim by its name. Its age is by the store's clock where our own claim is among
        them: that is as young as the listing."""
        times = {
            path.name: stat.st_mtime
            for path, stat in self._folder(key).children()
            if path.name.count("-") >= 2
        }
        now = times.get(self._own, time.time())
        found = {name: self._holder_by(key, name, now - renewed) for name, renewed in times.items()}
        return {name: holder for name, holder in found.items() if holder is not None}

    def _holder_by(self, key: str, name: str, silent_s: float) -> Holder | None:
        try:
            return _holder_of((self._folder(key) / name).read_bytes(), silent_s)
        except FileNotFoundError:  # given back just now
            return None

    def _folder(self, key: str) -> StorePath:
        return self._root / key / LEASE


def _is_free(holder: Holder | None, dead: Collection[str]) -> bool:
    return holder is None or holder.note.get("owner", "") in dead


def _holder_of(claim: bytes, silent_s: float) -> Holder:
    try:
        said = json.loads(claim)
        note = said.get("note") or {}
        return Holder(
            ProcessIdentity.from_json(said), silent_s, note if isinstance(note, Mapping) else {}
        )
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ):  # its writer was interrupted, or is just writing
        return Holder(_UNKNOWN, silent_s)
