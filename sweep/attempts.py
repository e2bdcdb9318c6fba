"""How often something is tried again that was lost with its worker, after which wait, and where. Plain arithmetic, no clock of its own.

A loss is not caused by the configuration: a killed worker, too little memory, unreachable storage. What a configuration is to blame
for is a failure, and is never tried again."""

from __future__ import annotations

from collections.abc import Collection

from sweep.causes import Cause

MAX_LOSSES = 4
"""How often in a row a training or evaluation may be lost, without anything new of it stored, before it counts as failed."""

FIRST_WAIT_S, WAIT_FACTOR = 2.0, 4.0
"""The wait before it is tried again: 2, 8, 32 s."""

ELSEWHERE_S = 30.0
"""For how long after the wait it is kept for another device, where there is one, before the one that lost it may try again."""


class Attempts:
    """The losses of one training or evaluation since it last came forward."""

    def __init__(self) -> None:
        self.n_losses = 0
        self.reason = ""  # of the last loss
        self.cause = Cause.LOST  # of the last loss
        self.lost_by: tuple[str, ...] = ()  # workers, all that ever lost it
        self._devices: set[str] = set()
        self._not_before = 0.0

    def lose(self, worker: str, *, device: str, reason: str, now: float, cause: Cause = Cause.LOST, counts: bool = True) -> None:
        """`counts` False: a whole node went, which says nothing about what ran there."""
        self.lost_by = (*self.lost_by, worker)
        self.reason, self.cause = reason, cause
        if counts:
            self._devices.add(device)
            self._not_before = now + FIRST_WAIT_S * WAIT_FACTOR**self.n_losses
            self.n_losses += 1

    def came_forward(self) -> None:
        """Something new of it is stored: earlier losses count no more."""
        self.n_losses = 0
        self._devices.clear()

    @property
    def exhausted(self) -> bool:
        return self.n_losses >= MAX_LOSSES

    @property
    def is_last(self) -> bool:
        """Whether the next loss is the last one. Then it is tried alone: if it kills its worker, it must not take others along."""
        return self.n_losses == MAX_LOSSES - 1

    def may_start(self, now: float) -> bool:
        return self.n_losses == 0 or now >= self._not_before

    def suits(self, device: str, others: Collection[str], now: float) -> bool:
        """Whether this device should try: one that has not lost it, if `others` have such a one and not too long has passed."""
        if device not in self._devices or self._devices.issuperset(others):
            return True
        return now >= self._not_before + ELSEWHERE_S
