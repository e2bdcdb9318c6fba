"""The identity of a process, so that another process can tell whether it has ended: machine, boot,
pid namespace, pid, start time.

A pid alone means nothing elsewhere: two containers on one host's network share its name and count
their processes separately, and a machine gives a number again. Where any part is unknown (no /proc,
another namespace, another boot), nothing is concluded."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

LARGEST_PID = 2**31

_ENDED = "ZX"
"""States of a process that runs no more and whose parent has not asked for its exit code."""


@dataclass(frozen=True)
class ProcessIdentity:
    """A process as others can recognise it. Empty texts and 0 are what could not be found out."""

    host: str
    pid: int
    boot: str = ""  # of the kernel, a new one at each start of the machine
    namespace: str = ""  # in which `pid` counts
    started: int = 0  # clock ticks since the boot

    @classmethod
    def of_this_process(cls) -> ProcessIdentity:
        return _identity_of(os.getpid())

    @classmethod
    def from_json(cls, known: Mapping[str, Any]) -> ProcessIdentity:
        """Raises: KeyError, TypeError, ValueError for what is none."""
        pid = int(known["pid"])
        if not 0 <= pid < LARGEST_PID:
            raise ValueError(f"no process has the number {pid}")
        boot, namespace = str(known.get("boot") or ""), str(known.get("namespace") or "")
        return cls(str(known["host"]), pid, boot, namespace, int(known.get("started") or 0))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def has_ended(self) -> bool:
        """Whether this process can tell that the other one has ended. False: it lives, or nothing
        is known."""
        here = ProcessIdentity.of_this_process()
        if not (self.started and self.boot and self.namespace and here.started):
            return False
        if (self.host, self.boot, self.namespace) != (here.host, here.boot, here.namespace):
            return False
        if not _exists(self.pid):
            return True
        found = _stat_of(self.pid)
        return found is not None and (found.started != self.started or found.state in _ENDED)


@cache
def _identity_of(pid: int) -> ProcessIdentity:  # by pid: a fork is another process
    host = socket.gethostname()
    own = _stat_of(pid) if _proc_is_ours() else None
    if own is None:
        return ProcessIdentity(host, pid)
    return ProcessIdentity(
        host, pid, _text("/proc/sys/kernel/random/boot_id"), _link("/proc/self/ns/pid"), own.started
    )


def _proc_is_ours() -> bool:
    """Whether /proc counts processes as this one does: `unshare --pid` alone leaves the parent's
    there."""
    return _link("/proc/self") == str(os.getpid())


@dataclass(frozen=True)
class _Stat:
    state: str
    started: int


def _stat_of(pid: int) -> _Stat | None:
    """From /proc/PID/stat; None where it cannot be read."""
    # The second field is the program's name, in parentheses, and may hold anything.
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[19])) if len(fields) > 19 else None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
