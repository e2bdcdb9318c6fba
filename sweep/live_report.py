"""The report of a study while its launch is live: made anew in another process, as often as what it costs allows, and once more at the end.

A report that fails is told in a line; a study ends for none."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Protocol

import psutil

from sweep.errors import RecordsError
from sweep.folder import StudyFolder
from sweep.record_files import write_atomically
from trainables.storage import Place

REPORT = "report.html"
MOST_OF_THE_TIME = 0.05
LEAST_EVERY_S = 30.0
POLL_S = 0.1
GRACE_S = 3.0


class Process(Protocol):
    """What makes a report."""

    cpu_s: float

    def poll(self) -> int | None:
        """The exit code, once it has ended."""

    def said(self) -> str:
        """Why it failed, once it has."""

    def end(self) -> None:
        """Leave nothing of it behind. One that has ended is no error."""


class LiveReport:
    """Guarantees: one process at a time, and none after `stop`; of the time between the starts of two, the first one took at most
    MOST_OF_THE_TIME of a core."""

    def __init__(self, *, start: Callable[[Sequence[str]], Process] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._start = start or ReportProcess
        self._clock = clock
        self._folder: StudyFolder | None = None
        self._process: Process | None = None
        self._started_at = self._not_before = clock()
        self._n_scores = self._n_shown = 0
        self._problem = ""

    def open(self, folder: StudyFolder) -> None:
        """The study whose report it is."""
        self._folder = folder

    def look(self, n_scores: int) -> str | None:
        """See whether a report has ended, or is due: there are scores that the last one does not show. Returns what there is to tell."""
        said, self._n_scores = None, n_scores
        if self._process is not None and (code := self._process.poll()) is not None:
            said = self._take_end(self._process, code)
        if self._process is None and n_scores > self._n_shown and self._clock() >= self._not_before:
            self._begin(n_scores)
        return said

    def finish(self) -> str:
        """Make it once more, wait for it, and return what there is to tell. Ctrl+C ends the waiting and the report, nothing else."""
        assert self._folder is not None
        self.stop()
        self._problem = ""
        try:
            process = self._begin(self._n_scores)
            while (code := process.poll()) is None:
                time.sleep(POLL_S)
            return self._take_end(process, code) or f"report                 {self._place}"
        except KeyboardInterrupt:
            return "the report was not made again: interrupted"
        finally:
            self.stop()

    def stop(self) -> None:
        """End the process that makes one, if there is one."""
        if self._process is not None:
            self._process.end()
            self._process = None

    @property
    def has_scores(self) -> bool:
        """Whether there is something to report of."""
        return self._n_scores > 0

    @property
    def _place(self) -> Place:
        return self._folder.root / REPORT  # type: ignore[union-attr]

    @property
    def _file(self) -> Path:
        """Where a process can write it: in the study's folder or, if that lies in a store, in this machine's."""
        return self._folder.here / REPORT  # type: ignore[union-attr]

    def _begin(self, n_scores: int) -> Process:
        self._n_shown, self._started_at = n_scores, self._clock()
        self._process = self._start([self._folder.root.name, "--storage", str(self._folder.storage), "-o", str(self._file)])  # type: ignore[union-attr]
        return self._process

    def _take_end(self, process: Process, code: int) -> str | None:
        self._not_before = self._started_at + max(LEAST_EVERY_S, process.cpu_s / MOST_OF_THE_TIME)
        problem = process.said() if code else self._stored()
        process.end()
        self._process = None
        is_news, self._problem = problem != self._problem, problem
        return f"the report was not made: {problem}" if problem and is_news else None

    def _stored(self) -> str:
        """Put it where the study is, if it is not there yet. Returns what hindered it."""
        if self._file == self._place:
            return ""
        try:
            content = self._file.read_bytes()
            write_atomically(self._place, lambda file: file.write(content))
        except (OSError, RecordsError) as error:
            return str(error)
        return ""


class ReportProcess:
    """`python -m sweep.report_process` with these arguments. It ends with this process, whatever ends that."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.cpu_s = 0.0
        self._errors: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sweep.report_process", *arguments],
            stdin=subprocess.PIPE,  # its end is this process's
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            cwd=Path(__file__).parents[1],  # where the packages are, wherever the study was launched
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl+C is for the launch
        )

    def poll(self) -> int | None:
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(self._process.pid).cpu_times()
            self.cpu_s = max(self.cpu_s, times.user + times.system)
        return self._process.poll()

    def said(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else f"its process ended with {self._process.returncode}"

    def end(self) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()
