"""Optuna's journal as a view: the log of a study is kept in memory, where Optuna reads it, and
copied to a file for optuna-dashboard.

The file is never read, and nothing that happens to it reaches the study: where it cannot be
written, one line says so, and the whole log is written anew once it can be. It replaces what an
earlier launch left there."""

from __future__ import annotations

import errno
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from trainables.storage import reason_of

logger = logging.getLogger(__name__)

RETRY_S = 10.0
"""How long a file that could not be written is left alone."""


class JournalView:
    """A backend of optuna.storages.JournalStorage, by the two methods that it calls. No OSError of
    the file leaves it."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._lines: list[bytes] = []
        self._file: IO[bytes] | None = (
            None  # stays open, so that no other file can be mistaken for it
        )
        self._n_copied = self._n_bytes = 0  # of the lines, into this file
        self._is_behind = False  # since a write failed, which was said
        self._retry_at = clock()
        self._copy()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return map(json.loads, self._lines[log_number_from:])

    def append_logs(self, logs: Sequence[Mapping[str, Any]]) -> None:
        self._lines += [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]
        self._copy()

    # ---- private

    def _copy(self) -> None:
        if self._is_behind and self._clock() < self._retry_at:
            return
        try:
            if self._file is None or not self._is_whole(self._file) or self._is_behind:
                self._write_anew()
            else:
                self._write(self._file)
        except OSError as error:
            self._retry_at = self._clock() + RETRY_S
            if not self._is_behind:
                logger.warning(
                    f"Optuna's journal {self._path} cannot be written ({reason_of(error)}). "
                    "It is only a view for optuna-dashboard: "
                    "the study goes on, and the journal is written anew once it can be."
                )
            self._is_behind = True
        else:
            if self._is_behind:
                logger.warning(f"Optuna's journal {self._path} is written again")
            self._is_behind = False

    def _is_whole(self, file: IO[bytes]) -> bool:
        """Whether the journal is still our file, with all that was copied into it.

        Raises:
            FileExistsError: another file is there now, which is another launch's.  OSError: its
            folder does not answer."""
        ours = os.fstat(file.fileno())
        try:
            found = os.stat(self._path)
        except FileNotFoundError:
            return False
        if not os.path.samestat(ours, found):
            raise FileExistsError(errno.EEXIST, "another file has taken its place", str(self._path))
        return ours.st_size >= self._n_bytes

    def _write_anew(self) -> None:
        # A dashboard never sees half of it.
        temporary = self._path.with_name(f".{self._path.name}.{uuid.uuid4().hex}.tmp")
        file = open(temporary, "ab", buffering=0)  # noqa: SIM115
        before = self._n_copied, self._n_bytes
        try:
            self._n_copied = self._n_bytes = 0
            self._write(file)
            os.replace(temporary, self._path)
        except OSError:
            self._n_copied, self._n_bytes = before
            file.close()
            temporary.unlink(missing_ok=True)
            raise
        if self._file is not None:
            self._file.close()
        self._file = file

    def _write(self, file: IO[bytes]) -> None:
        content = b"".join(self._lines[self._n_copied :])
        if content and file.write(content) != len(content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
        self._n_copied, self._n_bytes = len(self._lines), self._n_bytes + len(content)
