"""A study's folder: where its files lie, who may write there, and whether a study of that name may go on in it.

    <storage>/adapters/         adapters of all studies, by training key
    <storage>/<name>/study.py   the source that was launched last;  study.json: the same, field by field
                     launches.json   when it was launched, how, and how that ended;  control.json: what is asked of a live launch
                     .lease     kept fresh by the launch that is live
                     records/   pictures/   optuna.journal   worker-*.log
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from sweep.comparison import Verdict, require_comparable
from sweep.errors import RecordsError, StudyError
from sweep.record_files import write_atomically
from sweep.study import Study
from trainables.leases import STALE_S, Holder, Leases

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
        self.launches = self.root / "launches.json"
        self.control = self.root / "control.json"

    @property
    def exists(self) -> bool:
        return self.description.exists()

    @property
    def holder(self) -> Holder | None:
        """The launch that runs the study now, on whatever machine; None where none does."""
        return Leases(self.storage).holder(self.root.name)

    @contextmanager
    def held(self, launch: str = "") -> Iterator[Leases]:
        """Keep every other launch of this study out, on every machine that shares the storage. `launch`: what others call this one.

        Raises:
            StudyError: another launch holds it.  RecordsError: the folder cannot be written."""
        lease = Leases(self.storage, note={"launch": launch})
        try:
            mine = lease.acquire(self.root.name)
        except OSError as error:
            raise _unwritable(self.root, error) from error
        if not mine:
            raise self._in_use()
        try:
            yield lease
        finally:
            lease.release(self.root.name)
            self._remove_if_empty()

    def _in_use(self) -> StudyError:
        name, holder = self.root.name, self.holder
        who = f"{name} is in use by process {holder.pid} on {holder.host}, heard of {holder.silent_s:.0f} s ago" if holder else f"{name} is in use"
        return StudyError(
            f"A study is launched once at a time, but {who}. End it with `sweep stop {name}`, wait ({STALE_S:.0f} s where its machine has died), "
            f"or use --name {self.free_name}."
        )

    @property
    def free_name(self) -> str:
        """NAME-2, or the first one after it that the storage does not have."""
        stem, _, number = self.root.name.rpartition("-")
        stem, first = (stem, int(number) + 1) if stem and number.isdecimal() else (self.root.name, 2)
        return next(name for i in count(first) if not (self.storage / (name := f"{stem}-{i}")).exists())

    def require_comparable(self, study: Study, content: Mapping[str, str]) -> list[Verdict]:
        """The fields in which `study` extends what the folder holds; none for a new folder. `content`: as Keys.content_digests.

        Raises:
            IncomparableStudyError: its records are of something else."""
        if not self.exists:
            return []
        new = {**study.describe(), "content": dict(content)}
        return require_comparable(self.read_description(), new, another_name=self.free_name)

    def read_description(self) -> dict[str, Any]:
        """The study as it was launched last, field by field.

        Raises:
            StudyError: the file is damaged."""
        try:
            return json.loads(self.description.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StudyError(f"A study's description must be JSON, but {self.description} is damaged: {error}. Restore it, or launch anew.") from error

    def write_study(self, study: Study, content: Mapping[str, str]) -> None:
        """Store the study as it is launched now, with the digests of what its names stand for."""
        description = {**study.describe(), "content": dict(content)}
        for path, text in ((self.source, study.source), (self.description, json.dumps(description, indent=1))):
            write_atomically(path, lambda file, text=text: file.write(text.encode()))

    def _remove_if_empty(self) -> None:
        """A launch that never began leaves nothing behind."""
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()

    def worker_log(self, worker: str) -> Path:
        return self.root / f"{worker}.log"


def find_study_folder(name_or_dir: str, storage: Path | str = DEFAULT_STORAGE) -> StudyFolder:
    """The folder of a study that was launched, by its name or its path.

    Raises:
        StudyError: there is none."""
    as_path = Path(name_or_dir)
    by_name = [StudyFolder(storage, name_or_dir)] if as_path.name == name_or_dir else []
    for folder in (*by_name, StudyFolder(as_path.absolute().parent, as_path.name)):
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
