"""Waiting for a storage that is away for a while: what is to be written waits for it, rather than being made again.

Not here: what is tried again elsewhere, which the pool says (attempts.py)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from sweep.errors import RecordsError

logger = logging.getLogger(__name__)

WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""A minute in all: a file server that restarts is back by then, and a full disk must be told of."""

T = TypeVar("T")


def patiently(write: Callable[[], T], *, sleep: Callable[[float], None] = time.sleep) -> T:
    """What `write` returns, tried again after each of WAITS_S while the storage is away.

    Raises:
        RecordsError, OSError: it was away all the time."""
    for wait_s in WAITS_S:
        try:
            return write()
        except (RecordsError, OSError) as error:
            logger.warning("the storage is away, trying again in %g s: %s", wait_s, error)
            sleep(wait_s)
    return write()


class TrialRecords(Protocol):
    def append_trial(self, row: Mapping[str, Any]) -> None: ...


class PatientRecords:
    """Records of trials that wait for their storage."""

    def __init__(self, records: TrialRecords) -> None:
        self._records = records

    def append_trial(self, row: Mapping[str, Any]) -> None:
        patiently(lambda: self._records.append_trial(row))
