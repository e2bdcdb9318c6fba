"""A study's folder: where its files lie, who may write there, and whether a study of that name may go on in it.

    <storage>/adapters/         adapters of all studies, by training key
    <storage>/<name>/study.py   the source that was launched last;  study.json: the same, field by field
                     records/   pictures/   optuna.journal   worker-*.log
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sweep.comparison import Verdict, require_comparable
from sweep.errors import RecordsError, StudyError
from sweep.record_files import write_atomically
from sweep.study import Study

DEFAULT_STORAGE = Path("sweeps")
ADAPTERS = "adapters"


class StudyFolder:
    """Paths only: making one touches no disk."""

    def __init__(self, storage: Path | str, name: str) -> None:
        if name == ADAPTERS:
            raise StudyError(f"A study may not be named {ADAPTERS!r}: that folder of the storage holds the adapters. Use another --name.")
        self.storage = Path(storage).absolute()
        self.root = self.storage / name
        self.adapters = self.storage / ADAPTERS
        self.latents = self.storage / ".latents"
        self.journal = self.root / "optuna.journal"
        self.pack_size = self.root / "pack.json"
        self.source = self.root / "study.py"
        self.description = self.root / "study.json"
        self._lock = self.root / ".lock"

    @property
    def exists(self) -> bool:
        return self.description.exists()

    @property
    def is_running(self) -> bool:
        """Whether some process on this machine runs the study now."""
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
        """Keep every other launch of this study out.

        Raises:
            StudyError: another process runs it.  RecordsError: the folder cannot be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            lock = open(self._lock, "a+")  # noqa: SIM115
        except OSError as error:
            raise _unwritable(self.root, error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StudyError(
                    f"A study runs once at a time, but {self.root} is in use by another launch. Wait for it, or use --name."
                ) from error
            try:
                yield
            finally:
                self._remove_if_empty()

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
        if self.root.is_dir() and [path.name for path in self.root.iterdir()] == [self._lock.name]:
            self._lock.unlink()
            self.root.rmdir()

    def worker_log(self, worker: str) -> Path:
        return self.root / f"{worker}.log"


def find_study_folder(name_or_dir: str, storage: Path | str = DEFAULT_STORAGE) -> StudyFolder:
    """The folder of a study that was launched, by its name or its path.

    Raises:
        StudyError: there is none."""
    as_path = Path(name_or_dir)
    for folder in (StudyFolder(storage, name_or_dir), StudyFolder(as_path.absolute().parent, as_path.name)):
        if folder.exists:
            return folder
    known = sorted(path.parent.name for path in Path(storage).glob("*/study.json"))
    there = f"{storage} holds {', '.join(known)}" if known else f"{storage} holds no study"
    raise StudyError(f"There is no study {name_or_dir!r}: {there}. Use one of these, or --storage DIR.")


def _unwritable(folder: Path, error: OSError) -> RecordsError:
    return RecordsError(
        f"A study's folder must be writable, but {folder} is not: {error.strerror or error}. "
        f"Change its permissions, or choose another place with --storage DIR."
    )
