"""What a launch obeys besides its study: Ctrl+C and signals, what `sweep stop`, `pause` and `set` ask of it, the loss of its lease.

Called ten times a second or so by whoever runs the trials; it tells the driver, and notes what has happened in the log of launches."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from sweep.control import AT_RUNGS, NOW, Control, Wishes
from sweep.driver import Driver
from sweep.errors import LeaseLostError
from sweep.launches import FINISHED, PAUSED, RUNNING, LaunchLog
from sweep.causes import Cause
from sweep.study import Study

ASKED_TO_STOP = f"{Cause.INTERRUPTED} by `sweep stop`"
LOOK_EVERY_S = 1.0
STUCK_AFTER_S = 30.0
"""A study that is to end at its next rungs waits for no worker that has shown no progress for so long."""
STOPS = {None: 0, AT_RUNGS: 1, NOW: 2}


@dataclass
class Interruptions:
    """How urgently signals ask for the end: 0 not at all, 1 at the next rungs, 2 now."""

    urgency: int = 0


@contextmanager
def interruptions() -> Iterator[Interruptions]:
    """The first Ctrl+C asks for an end at the next rungs, the second for one now, as SIGTERM does at once: what sends it kills soon.
    One more interrupts whatever is being done."""
    heard = Interruptions()

    def hear(number: int, frame: Any) -> None:
        if heard.urgency == 2:
            raise KeyboardInterrupt
        heard.urgency = 2 if number == signal.SIGTERM else heard.urgency + 1

    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StandingOrders:
    """Guarantees: a stop is never taken back, only made more urgent; what was asked of another launch is not obeyed."""

    def __init__(
        self,
        control: Control,
        log: LaunchLog,
        heard: Interruptions,
        *,
        loss: Callable[[], LeaseLostError | None],
        changed: Callable[[Study], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`loss`: what to say where another launch has this study now. `changed`: called with the
        study when its limits have changed."""
        self.log = log
        self._control, self._heard, self._clock = control, heard, clock
        self._loss, self._changed = loss, changed
        self._looked_at = -LOOK_EVERY_S
        self._urgency = 0
        self._stopped_at = 0.0
        self._asked = Wishes("")

    def obey(self, driver: Driver, under_way: Callable[[], Iterable[str]], silent_s: Callable[[], float], *, n_gpus: int) -> None:
        """`under_way`: ids of the trials that are on their way to a rung. `silent_s`: for how long a worker whom they need has shown no
        progress. Both are asked for only where it matters."""
        try:
            self._obey(driver, under_way, silent_s, n_gpus=n_gpus)
        except LeaseLostError as error:
            driver.abandon(error)

    def ended(self, driver: Driver) -> None:
        """Note how the launch ended. One that another has replaced leaves its log to that."""
        with suppress(LeaseLostError):
            self.log.end(driver.stopping or (FINISHED if driver.finished else "ended unexpectedly"))

    def _obey(self, driver: Driver, under_way: Callable[[], Iterable[str]], silent_s: Callable[[], float], *, n_gpus: int) -> None:
        if self._clock() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = self._clock()
            with suppress(OSError):  # the storage is away: it is looked at again
                self._look(driver)
        self._stop(driver, max(self._heard.urgency, STOPS[self._asked.stop]), under_way)
        if self._urgency == 1 and self._is_stuck(silent_s):  # nobody knows whether the rungs under way will ever be scored
            self._stop(driver, 2, under_way)
        if self._asked.paused != driver.paused and driver.stopping is None:
            driver.pause(under_way()) if self._asked.paused else driver.go_on()
        if driver.fatal is None:
            self.log.beat(n_gpus=n_gpus, state=driver.stopping or (PAUSED if driver.paused else RUNNING))

    def _look(self, driver: Driver) -> None:
        if (lost := self._loss()) is not None:
            raise lost
        asked = self._control.wishes()
        if asked is not None and asked != self._asked:
            self._asked = asked
            self._take_limits(driver)

    def _stop(self, driver: Driver, urgency: int, under_way: Callable[[], Iterable[str]]) -> None:
        if urgency <= self._urgency:
            return
        self._urgency, self._stopped_at = urgency, self._clock()
        reason = str(Cause.INTERRUPTED) if self._heard.urgency else ASKED_TO_STOP
        if urgency == 2:
            driver.stop(reason)
            driver.end_all(reason)
        else:
            driver.wind_down(reason, under_way())

    def _is_stuck(self, silent_s: Callable[[], float]) -> bool:
        return self._clock() - self._stopped_at >= STUCK_AFTER_S / 2 and silent_s() >= STUCK_AFTER_S

    def _take_limits(self, driver: Driver) -> None:
        new = {name: value for name, value in self._asked.limits.items() if getattr(driver.study, name) != value}
        if new:
            driver.change_limits(new)
            self.log.ask_for({name: str(value) for name, value in new.items()})
            self._changed(driver.study)
