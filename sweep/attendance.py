"""Which live trials have a process of Ray Tune's that waits for their rungs. A trial needs none: it is then judged from snapshots.

A trial may be taken from its process, which leaves when it hears of it; until then nothing that it says is news of the trial."""

from __future__ import annotations

from collections import Counter, deque


class Attendance:
    def __init__(self) -> None:
        self._waiting: deque[str] = deque()  # live trials that were not handed out
        self._handed_out: set[str] = set()  # those that a process has, or will have once it is up
        self._attended: set[str] = set()  # those of which it has asked for a rung
        self._leaving: set[str] = set()  # those that were taken from a process which is still there
        self._n_lost: Counter[str] = Counter()  # processes that ended unexpectedly, by trial

    def add(self, trial: str) -> None:
        """A trial that is live from now on, or again."""
        if trial not in self._handed_out:
            self._waiting.append(trial)

    def hand_out(self) -> str | None:
        """A trial for a process that has none."""
        if not self._waiting:
            return None
        self._handed_out.add(self._waiting[0])
        return self._waiting.popleft()

    def attend(self, trial: str) -> None:
        self._attended.add(trial)

    def is_attended(self, trial: str) -> bool:
        return trial in self._attended

    def is_leaving(self, trial: str) -> bool:
        return trial in self._leaving

    def take_away(self, trial: str) -> None:
        """No process may speak for this trial until it is added again."""
        self.forget(trial)
        self._attended.discard(trial)
        if trial in self._handed_out:
            self._leaving.add(trial)

    def forget(self, trial: str) -> None:
        """A trial that has ended, or is live no longer for another reason."""
        if trial in self._waiting:
            self._waiting.remove(trial)

    def gone(self, trial: str) -> int:
        """The trial's process is gone; returns how many it has lost so far that were not to leave."""
        self._n_lost[trial] += trial not in self._leaving
        for names in (self._handed_out, self._attended, self._leaving):
            names.discard(trial)
        return self._n_lost[trial]
