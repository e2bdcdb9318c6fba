"""A study's folder: where its files lie, who may write there, and whether a study of that name may go on in it.

    <storage>/adapters/         adapters of all studies, by training key
    <storage>/<name>/study.py   the source that was launched last;  study.json: the same, field by field
                     records/   pictures/
    <here>/                     optuna.journal   pack.json   worker-*.log   .lock: of one machine, made anew where they lack

`here` is the study's folder itself or, where that lies in an S3-style store, one in this machine's cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sweep.comparison import Verdict, require_comparable
from sweep.errors import RecordsError, StudyError
from sweep.record_files import write_atomically
from sweep.study import Study
from trainables.leases import Leases
from trainables.storage import Place, StorePath, place, reason_of, require_plain_name

DEFAULT_STORAGE = Path("sweeps")
ADAPTERS = "adapters"


class StudyFolder:
    """Paths only: making one touches no disk and sends no request.

    Raises:
        StudyError: the name is that of the adapters.  StorageError: it leads out of the storage, or there can be no such storage."""

    def __init__(self, storage: Place | str, name: str) -> None:
        if name == ADAPTERS:
            raise StudyError(f"A study may not be named {ADAPTERS!r}: that folder of the storage holds the adapters. Use another --name.")
        self.storage = place(storage).absolute()
        self.root = self.storage / require_plain_name(name, "A study's name")
        self.adapters = self.storage / ADAPTERS
        self.source = self.root / "study.py"
        self.description = self.root / "study.json"
        machine = _cache_of(self.storage) if isinstance(self.storage, StorePath) else self.storage
        self.here = machine / name
        self.latents = machine / ".latents"
        self.journal = self.here / "optuna.journal"
        self.pack_size = self.here / "pack.json"
        self._lock = self.here / ".lock"

    @property
    def exists(self) -> bool:
        return self.description.exists()

    @property
    def is_running(self) -> bool:
        """Whether some process on this machine, or one that shares the store, runs the study now."""
        if isinstance(self.root, StorePath) and Leases(self.storage).is_held(self.root.name):
            return True
        if not self._lock.exists():
            return False
        with open(self._lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other launch of this study out: on this machine surely, and of those that share a store as far as a lease does.

        Raises:
            StudyError: another process runs it.  RecordsError: the folder cannot be written."""
        try:
            self.here.mkdir(parents=True, exist_ok=True)
            lock = open(self._lock, "a+")  # noqa: SIM115
        except OSError as error:
            raise _unwritable(self.here, error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise self._in_use() from error
            try:
                with self._leased():
                    yield
            finally:
                self._remove_if_empty()

    @contextmanager
    def _leased(self) -> Iterator[None]:
        if not isinstance(self.root, StorePath):
            yield
            return
        leases = Leases(self.storage)
        try:
            held = leases.acquire(self.root.name)
        except OSError as error:
            raise _unwritable(self.root, error) from error
        if not held:
            raise self._in_use()
        try:
            yield
        finally:
            leases.release(self.root.name)

    def _in_use(self) -> StudyError:
        return StudyError(f"A study runs once at a time, but {self.root} is in use by another launch. Wait for it, or use --name.")

    def require_comparable(self, study: Study, content: Mapping[str, str]) -> list[Verdict]:
        """The fields in which `study` extends what the folder holds; none for a new folder. `content`: as Keys.content_digests.

        Raises:
            IncomparableStudyError: its records are of something else."""
        if not self.exists:
            return []
        return require_comparable(json.loads(self.description.read_text(encoding="utf-8")), {**study.describe(), "content": dict(content)})

    def write_study(self, study: Study, content: Mapping[str, str]) -> None:
        """Store the study as it is launched now, with the digests of what its names stand for."""
        description = {**study.describe(), "content": dict(content)}
        for path, text in ((self.source, study.source), (self.description, json.dumps(description, indent=1))):
            write_atomically(path, lambda file, text=text: file.write(text.encode()))

    def _remove_if_empty(self) -> None:
        """A launch that never began leaves nothing behind."""
        if self.here.is_dir() and [path.name for path in self.here.iterdir()] == [self._lock.name]:
            self._lock.unlink()
            self.here.rmdir()

    def worker_log(self, worker: str) -> Path:
        return self.here / f"{worker}.log"


def find_study_folder(name_or_dir: str, storage: Place | str = DEFAULT_STORAGE) -> StudyFolder:
    """The folder of a study that was launched, by its name or its path.

    Raises:
        StudyError: there is none."""
    storage, as_path = place(storage), place(name_or_dir).absolute()
    named = [] if isinstance(as_path, StorePath) or "/" in name_or_dir else [(storage, name_or_dir)]
    for there, name in (*named, (as_path.parent, as_path.name)):
        if (there / name / "study.json").exists():
            return StudyFolder(there, name)
    known = sorted(path.parent.name for path in storage.glob("*/study.json"))
    there = f"{storage} holds {', '.join(known)}" if known else f"{storage} holds no study"
    raise StudyError(f"There is no study {name_or_dir!r}: {there}. Use one of these, or --storage DIR.")


def _cache_of(store: StorePath) -> Path:
    """The folder of this machine for what belongs to a store, but cannot lie in it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "lora-sweep" / f"{store.name}-{hashlib.sha256(str(store).encode()).hexdigest()[:12]}"


def _unwritable(folder: Place, error: OSError) -> RecordsError:
    return RecordsError(
        f"A study's folder must be writable, but {folder} is not: {reason_of(error)}. "
        f"Change its permissions, or choose another place with --storage DIR."
    )
