"""Where the live view is seen: a table that is redrawn in place on a terminal, elsewhere a line per event and now and then a heartbeat.

`sweep launch` shows it the moments of its own study, `sweep watch` those that another process writes down."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from sweep.live_drawing import LiveTable, heartbeat
from sweep.moment import Moment, Notice
from sweep.wording import clock_text

HEARTBEAT_EVERY_S = 30.0
REDRAW_PER_S = 2


class LiveScreen:
    """Use it as a context: leaving it takes the live table off the terminal. Each notice is said once."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self._clock = clock
        self._moment: Moment | None = None
        self._shown_at = 0.0
        self._n_said = 0
        self._spoke_at = -math.inf
        self._live = None
        if console.is_terminal:
            self._live = Live(get_renderable=self._drawing, console=console, refresh_per_second=REDRAW_PER_S, transient=True)

    def __enter__(self) -> LiveScreen:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, moment: Moment) -> None:
        """Called as often as there is a newer moment; until the next one its clock goes on by itself."""
        before, self._moment, self._shown_at = self._moment, moment, self._clock()
        for notice in moment.notices:
            if notice.number > self._n_said:
                self._n_said = notice.number
                self._say(notice)
        if self._live is None:
            self._say_how_it_goes(moment, before)

    def skip_notices(self, moment: Moment) -> None:
        """Say nothing of what had happened before somebody began to look."""
        self._n_said = max([self._n_said, *(notice.number for notice in moment.notices)])

    def _say(self, notice: Notice) -> None:
        if self._live is None or not notice.passing:  # the table tells the others
            self._print(notice.at_s, notice.text)

    def _say_how_it_goes(self, moment: Moment, before: Moment | None) -> None:
        if moment.phase:
            if before is None or before.phase != moment.phase:
                self._print(moment.elapsed_s, f"{moment.phase} ...")
        elif self._clock() - self._spoke_at >= HEARTBEAT_EVERY_S:
            self._print(moment.elapsed_s, heartbeat(moment))

    def _print(self, at_s: float, text: str) -> None:
        self._spoke_at = self._clock()
        line = Text(f"{clock_text(at_s)}  {' '.join(text.splitlines())}")
        self.console.print(line, highlight=False, soft_wrap=self._live is None)  # a log's lines are for grep

    def _drawing(self) -> RenderableType:
        moment = self._moment  # the drawing thread's own: the next one may come while it draws
        return Text() if moment is None else LiveTable(moment.later(self._clock() - self._shown_at))
