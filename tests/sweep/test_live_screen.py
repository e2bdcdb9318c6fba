"""What stays on a terminal and what its table tells, and lines elsewhere."""

import io
from dataclasses import replace

from rich.console import Console

from sweep.live_screen import LiveScreen
from sweep.moment import Moment, Notice
from tests.sweep.fakes import FakeClock

MOMENT = Moment("s", 60.0, n_trials=3, counts={"RUNNING": 1}, notices=(Notice(1, 50.0, "kept"), Notice(2, 55.0, "passing by", passing=True)))


def shown(*moments: Moment, is_terminal: bool, skip: Moment | None = None) -> str:
    console = Console(file=io.StringIO(), width=100, height=30, force_terminal=is_terminal, color_system=None)
    clock = FakeClock()
    with LiveScreen(console, clock=clock) as screen:
        if skip:
            screen.skip_notices(skip)
        for moment in moments:
            screen.show(moment)
            clock.sleep(1.0)
    return console.file.getvalue()


def test_a_log_has_each_notice_once():
    later = replace(MOMENT, notices=(*MOMENT.notices[1:], Notice(3, 61.0, "newest\nin a line")))
    assert shown(MOMENT, MOMENT, later, is_terminal=False).splitlines() == ["0:50  kept", "0:55  passing by", "1:01  newest in a line"]


def test_a_terminal_keeps_what_does_not_pass():
    lines = shown(MOMENT, MOMENT, is_terminal=True)
    assert lines.count("0:50  kept") == 1 and lines.index("0:50  kept") < lines.index("s  1:01") and "s  1:01   0 of 3 trials have ended, 1 running" in lines


def test_what_had_happened_before_somebody_looked_is_not_told():
    assert shown(MOMENT, is_terminal=False, skip=MOMENT).splitlines() == ["1:00  0 of 3 trials have ended, 1 running; time left not known yet"]
