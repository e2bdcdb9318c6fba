"""The launches of a study: how it was asked for, when each launch ran, on which machine, how it ended, and the GPU hours it held.

One JSON file beside the records. A live launch writes it every few seconds, so that what a killed one used is known, too: budgets
count all launches of a study. What is in the records is not repeated here."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sweep.errors import RecordsError, StudyError
from sweep.record_files import in_commands, write_atomically
from trainables.storage import Place

logger = logging.getLogger(__name__)

BEAT_EVERY_S = 10.0
_ID_DIGITS = 11  # of milliseconds since 1970, in hexadecimal: until the year 2527
RUNNING, PAUSED, FINISHED = "running", "paused", "finished"


def new_launch_id(clock: Callable[[], float] = time.time) -> str:
    """The id of a launch that begins now. Ids sort by the time at which launches began."""
    return f"{int(1000 * clock()):0{_ID_DIGITS}x}{uuid.uuid4().hex[:5]}"


@dataclass(frozen=True)
class Request:
    """How a study was asked for, apart from the text of its file: what `sweep resume` asks for again."""

    overrides: Mapping[str, str] = field(default_factory=dict)  # as load_study takes them
    options: Mapping[str, Any] = field(default_factory=dict)  # of `sweep launch`: device, pack_size, compile, gradient_checkpointing
    file: str = ""  # the study file, absolute
    directory: str = ""  # where it was launched: relative paths in the study are meant from here


@dataclass(frozen=True)
class LaunchEntry:
    """One launch. `state` is RUNNING, PAUSED, FINISHED or, in words, what ended it; RUNNING without a live lease is a killed one."""

    id: str
    host: str
    pid: int
    started_at: float  # s since 1970
    seen_at: float  # s since 1970: its end, or when it was last heard of
    state: str = RUNNING
    gpu_hours: float = 0.0

    @property
    def hours(self) -> float:
        return max(0.0, self.seen_at - self.started_at) / 3600


@dataclass(frozen=True)
class Launches:
    """What the file holds."""

    request: Request = Request()
    entries: tuple[LaunchEntry, ...] = ()

    @property
    def hours(self) -> float:
        """Wall time of all launches."""
        return sum(entry.hours for entry in self.entries)

    @property
    def gpu_hours(self) -> float:
        return sum(entry.gpu_hours for entry in self.entries)


def read_launches(path: Place) -> Launches:
    """The launches so far; none where the file is missing.

    Raises:
        StudyError: it is damaged."""
    if not path.exists():
        return Launches()
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        launches = Launches(Request(**said["request"]), tuple(LaunchEntry(**entry) for entry in said["launches"]))
        _require_types(launches)
        return launches
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise StudyError(
            f"The list of a study's launches must be readable, but {path} is damaged: {error}. "
            f"`sweep repair {in_commands(path.parent)}` begins a new one."
        ) from error


def _require_types(launches: Launches) -> None:
    """Raises: TypeError where a value is of another type than this program writes."""
    request = launches.request
    options = {name: dict(values) for name, values in (("overrides", request.overrides), ("options", request.options))}
    texts = [request.file, request.directory, *options["overrides"].values()]
    texts += [text for entry in launches.entries for text in (entry.id, entry.host, entry.state)]
    numbers = [n for entry in launches.entries for n in (entry.pid, entry.started_at, entry.seen_at, entry.gpu_hours)]
    for kind, values in ((str, texts), ((int, float), numbers)):
        if wrong := [value for value in values if not isinstance(value, kind) or isinstance(value, bool)]:
            raise TypeError(f"it gives {wrong[0]!r:.60}")


def write_launches(path: Place, launches: Launches) -> None:
    """Raises: RecordsError where the folder cannot be written."""
    text = json.dumps({"request": asdict(launches.request), "launches": [asdict(entry) for entry in launches.entries]}, indent=1)
    write_atomically(path, lambda file: file.write(text.encode()))


def with_overrides(launches: Launches, overrides: Mapping[str, str]) -> Launches:
    """The same, asked for with these texts, too."""
    return replace(launches, request=replace(launches.request, overrides={**launches.request.overrides, **overrides}))


class LaunchLog:
    """The entry of a launch that is live: it beats while it runs, and is told how it ended."""

    def __init__(
        self,
        path: Place,
        launch: str,
        request: Request,
        *,
        guard: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`guard` is called before each write, and raises where another launch has the study now:
        the list is that one's."""
        self.launch = launch
        self._guard = guard
        self._path = path
        self._clock = clock
        self._entry = LaunchEntry(launch, socket.gethostname(), os.getpid(), clock(), clock())
        self._launches = replace(read_launches(path), request=request)
        self._written_at = clock()
        self._write()

    @property
    def hours(self) -> float:
        """Wall time of all launches of the study until now."""
        return self._launches.hours + (self._clock() - self._entry.started_at) / 3600

    @property
    def gpu_hours(self) -> float:
        return self._launches.gpu_hours + self._entry.gpu_hours

    def beat(self, *, n_gpus: int, state: str = RUNNING) -> None:
        """The launch lives, and has held this many GPUs since the last beat."""
        now = self._clock()
        held = n_gpus * max(0.0, now - self._entry.seen_at) / 3600
        news = state != self._entry.state
        self._entry = replace(self._entry, seen_at=now, state=state, gpu_hours=self._entry.gpu_hours + held)
        if news or now - self._written_at >= BEAT_EVERY_S:
            try:
                self._write()
            except RecordsError as error:  # a storage that is away for a moment ends no study: the next beat tells it all
                logger.warning("a beat of launch %s was not written: %s", self._entry.id, error)

    def ask_for(self, overrides: Mapping[str, str]) -> None:
        """Remember what was changed while the study runs, for when it is resumed."""
        self._launches = with_overrides(self._launches, overrides)
        self._write()

    def end(self, state: str) -> None:
        self._entry = replace(self._entry, seen_at=self._clock(), state=state)
        self._write()

    def _write(self) -> None:
        self._written_at = self._clock()
        self._guard()
        write_launches(self._path, replace(self._launches, entries=(*self._launches.entries, self._entry)))
