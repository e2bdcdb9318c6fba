"""A clock that stands still while its process does: what was stopped, or slept with its machine, has not waited."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_GAP_S = 5.0


class AwakeClock:
    """Seconds that pass while somebody looks: a gap of more than LONGEST_GAP_S between two looks counts as that much."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked_at = clock()
        self._awake_s = 0.0

    def __call__(self) -> float:
        before, self._looked_at = self._looked_at, self._clock()
        self._awake_s += min(self._looked_at - before, LONGEST_GAP_S)
        return self._awake_s
