"""A study's folder: where its files lie, who may write there, and whether a study of that name may go on in it.

    <storage>/adapters/         adapters of all studies, by training key
    <storage>/<name>/study.py   the source that was launched last;  study.json: the same, field by field
                     launches.json   when it was launched, how, and how that ended;  control.json: what is asked of a live launch;  live.json: how it stands
                     .lease     kept fresh by the launch that is live
                     records/   pictures/
    <here>/                     optuna.journal   pack.json   worker-*.log: of one machine, made anew where they lack

`here` is the study's folder itself or, where that lies in an S3-style store, one in this machine's cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from time import sleep
from typing import Any

from sweep.comparison import Verdict, require_comparable
from sweep.errors import LeaseLostError, RecordsError, StudyError
from sweep.record_files import in_commands, write_atomically
from sweep.study import Study
from trainables.leases import STALE_S, Holder, Leases
from trainables.storage import (
    Place,
    StorePath,
    folders_in,
    patiently,
    place,
    reason_of,
    require_plain_name,
    home_expanded,
)

logger = logging.getLogger(__name__)

DEFAULT_STORAGE = Path("sweeps")
ADAPTERS = "adapters"
REMOVAL_PATIENCE_S, REMOVAL_POLL_S = 60.0, 0.5
"""How long a launch waits for `sweep gc` or `rm` of another process, and how often it looks."""


_DESCRIPTION = {"subject": str, "fixed": dict, "objective": dict, "samples": int}
"""What commands read of a description, in every version of this program, and its type."""


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
        self.launches = self.root / "launches.json"
        self.control = self.root / "control.json"
        self.live = self.root / "live.json"
        machine = _cache_of(self.storage) if isinstance(self.storage, StorePath) else self.storage
        self.here = machine / name
        self.latents = machine / ".latents"
        self.journal = self.here / "optuna.journal"
        self.pack_size = self.here / "pack.json"

    @property
    def exists(self) -> bool:
        return self.description.exists()

    @property
    def holder(self) -> Holder | None:
        """The launch that runs the study now, on whatever machine; None where none does."""
        return Leases(self.storage).holder(self.root.name)

    @contextmanager
    def held(self, launch: str = "") -> Iterator[Hold]:
        """Keep every other launch of this study out, on every machine that shares the storage. `launch`: what others call this one.

        Raises:
            StudyError: another launch holds it.  RecordsError: the folder cannot be written."""
        lease = Leases(self.storage, note={"launch": launch})
        try:
            self.here.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable_here(error) from error
        try:
            mine = lease.acquire(self.root.name)
        except OSError as error:
            raise _unwritable(self.root, error) from error
        if not mine:
            raise self.in_use()
        try:
            _wait_for_removal(self.storage)
            yield Hold(self, lease)
        finally:
            lease.release(self.root.name)
            self._remove_if_empty()

    def require_held_by(self, launch: str) -> None:
        """For the other processes of a launch, which do not hold its lease themselves.

        Raises:
            LeaseLostError: the lease is not that launch's any more.
            RecordsError: the storage does not answer."""
        claimants = self._answered(lambda: Leases(self.storage).claimants(self.root.name))
        if not any(claimant.note.get("launch") == launch for claimant in claimants):
            raise self.lease_lost()

    def lease_lost(self) -> LeaseLostError:
        """What to say where another process has the study now, or had it meanwhile."""
        name, holder = self.root.name, self.holder
        own = in_commands(self.root)
        if holder:
            who = f"process {holder.pid} on {holder.host} has taken {name} over"
            way_out = f"`sweep watch {own}` shows the other one"
        else:
            who = f"this one holds {name} no longer"
            way_out = f"`sweep resume {own}` goes on where the records stop"
        return LeaseLostError(
            "A study has one launch at a time, and one that is silent for "
            f"{STALE_S:.0f} s may be replaced: {who}. "
            f"This one writes nothing more, and nothing recorded is lost: {way_out}."
        )

    def _answered(self, ask: Callable[[], Any]) -> Any:
        try:
            return patiently(ask, str(self.root))
        except OSError as error:
            raise _unwritable(self.root, error) from error

    def in_use(self) -> StudyError:
        name, holder = self.root.name, self.holder
        who = f"{name} is in use by process {holder.pid} on {holder.host}, heard of {holder.silent_s:.0f} s ago" if holder else f"{name} is in use"
        return StudyError(
            f"A study is launched once at a time, but {who}. End it with `sweep stop {in_commands(self.root)}`, wait ({STALE_S:.0f} s where its machine has died), "
            f"or use --name {self.free_name}."
        )

    @property
    def free_name(self) -> str:
        """NAME-2, or the first one after it that the storage does not have."""
        stem, _, number = self.root.name.rpartition("-")
        stem, first = (stem, int(number) + 1) if stem and number.isdecimal() else (self.root.name, 2)
        return next(name for i in count(first) if not (self.storage / (name := f"{stem}-{i}")).exists())

    def require_writable(self) -> None:
        """Try, and leave nothing behind, whether a folder can be made here; of a store nothing is asked.

        Raises: RecordsError: the folder, or the one that it would be made in, cannot be written."""
        there = next(path for path in (self.here, *self.here.parents) if os.path.lexists(path))
        try:
            os.rmdir(tempfile.mkdtemp(prefix=".writable-", dir=there))
        except OSError as error:
            raise _unwritable(self.root, error) from error

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
            description = json.loads(self.description.read_text(encoding="utf-8"))
            for name, kind in _DESCRIPTION.items():
                if not isinstance(description[name], kind) or isinstance(description[name], bool):
                    raise TypeError(f"`{name}` is {description[name]!r:.60}")
            return description
        except OSError as error:
            raise StudyError(
                f"A study has its description, but {self.description} cannot be read: {reason_of(error)}. "
                f"`sweep repair {in_commands(self.root)}` writes it again from study.py."
            ) from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise StudyError(
                f"A study's description must be JSON with all its fields, but {self.description} is damaged: {error}. "
                f"`sweep repair {in_commands(self.root)}` writes it again from study.py."
            ) from error

    def write_study(self, study: Study, content: Mapping[str, str]) -> None:
        """Store the study as it is launched now, with the digests of what its names stand for, and the
        folder that relative ones are meant from."""
        write_atomically(self.source, lambda file: file.write(study.source.encode()))
        self.write_description(study, content)

    def write_description(self, study: Study, content: Mapping[str, str]) -> None:
        """The description alone, as `write_study` does."""
        description = {**study.describe(), "content": dict(content), "directory": os.getcwd()}
        write_atomically(self.description, lambda file: file.write(json.dumps(description, indent=1).encode()))

    def _unwritable_here(self, error: OSError) -> RecordsError:
        """That of the two which is meant: the study's own folder, or this machine's for a study in a store."""
        if self.here == self.root:
            return _unwritable(self.root, error)
        return RecordsError(
            f"What belongs to a study in a store, but cannot lie there, is kept on this machine, but {self.here} cannot be "
            f"written: {reason_of(error)}. Set XDG_CACHE_HOME to a folder that can be."
        )

    def _remove_if_empty(self) -> None:
        """A launch that never began leaves nothing behind."""
        if os.path.isdir(self.here) and not any(self.here.iterdir()):
            self.here.rmdir()

    def worker_log(self, worker: str) -> Path:
        return self.here / f"{worker}.log"


def live_studies(storage: Place, *, but: str = "") -> list[str]:
    """The studies that a process holds now, by name, whether they have records yet or not.
    `but`: left out."""
    leases = Leases(storage)
    names = [path.name for path in folders_in(storage) if path.name not in (ADAPTERS, but)]
    names = [name for name in names if not name.startswith(".")]  # one that is being removed
    return [name for name in names if leases.holder(name) is not None]


@contextmanager
def removing(storage: Place) -> Iterator[None]:
    """Keep launches from beginning while adapters of the storage are removed: what one will read
    is not in its records yet.

    Each side takes its lease first and looks for the other's then, so that at least one sees the
    other. Ask for `live_studies` inside.

    Raises:
        StudyError: another process is removing files there.
        RecordsError: the storage cannot be written."""
    lease = Leases(storage)
    try:
        mine = lease.acquire(ADAPTERS)
    except OSError as error:
        raise _unwritable(storage / ADAPTERS, error) from error
    if not mine:
        raise StudyError(
            "Files of a storage are removed by one process at a time, but "
            f"{_remover_text(storage)} removes some of {storage}. Wait for it."
        )
    try:
        yield
    finally:
        lease.release(ADAPTERS)


def _wait_for_removal(storage: Place) -> None:
    for attempt in range(round(REMOVAL_PATIENCE_S / REMOVAL_POLL_S)):
        if Leases(storage).holder(ADAPTERS) is None:
            return
        if attempt == 0:
            remover = _remover_text(storage)
            logger.warning(f"waiting for {remover}, which removes what no study of {storage} needs")
        sleep(REMOVAL_POLL_S)
    raise StudyError(
        "A study begins when nothing is being removed from its storage, but "
        f"{_remover_text(storage)} still does. Try again later."
    )


def _remover_text(storage: Place) -> str:
    holder = Leases(storage).holder(ADAPTERS)
    return f"process {holder.pid} on {holder.host}" if holder else "another process"


class Hold:
    """The right to write into a study's folder, which the process that entered `held` has until
    another takes the study over."""

    def __init__(self, folder: StudyFolder, leases: Leases) -> None:
        self._folder, self._leases = folder, leases

    def loss(self) -> LeaseLostError | None:
        """Why nothing more may be written; None while this process holds the study.

        Raises:
            OSError: the storage does not answer."""
        return self._folder.lease_lost() if self._leases.is_lost(self._folder.root.name) else None

    def require(self) -> None:
        """To be called before anything is written.

        Raises:
            LeaseLostError: another process has the study.
            RecordsError: the storage does not answer."""
        if (lost := self._folder._answered(self.loss)) is not None:
            raise lost


def find_study_folder(name_or_dir: str, storage: Place | str = DEFAULT_STORAGE, *, damaged: bool = False) -> StudyFolder:
    """The folder of a study that was launched, by its name or its path. `damaged`: also one without its description.

    Raises:
        StudyError: there is none."""
    storage, as_path = place(storage), place(name_or_dir).absolute()
    named = [] if isinstance(as_path, StorePath) or "/" in name_or_dir else [(storage, name_or_dir)]
    for there, name in (*named, (as_path.parent, as_path.name)):
        if (there / name / "study.json").exists():
            return StudyFolder(there, name)
        if name != ADAPTERS and any((there / name / part).exists() for part in ("study.py", "records")):
            if damaged:
                return StudyFolder(there, name)
            raise StudyError(f"A study has its description, but {there / name} has no study.json. `sweep repair {in_commands(there / name)}` writes it again.")
    known = sorted(path.parent.name for path in storage.glob("*/study.json"))
    there = f"{storage} holds {', '.join(known)}" if known else f"{storage} holds no study"
    raise StudyError(f"There is no study {name_or_dir!r}: {there}. Use one of these, or --storage DIR.")


def _cache_of(store: StorePath) -> Path:
    """The folder of this machine for what belongs to a store, but cannot lie in it."""
    cache = home_expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return cache / "lora-sweep" / f"{store.name}-{hashlib.sha256(str(store).encode()).hexdigest()[:12]}"


def _unwritable(folder: Place, error: OSError) -> RecordsError:
    return RecordsError(
        f"A study's folder must be writable, but {folder} is not: {reason_of(error)}. "
        f"Change its permissions, or choose another place with --storage DIR."
    )
