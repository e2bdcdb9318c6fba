"""What a launch tells who watches: each event once, by plain stand-ins for the driver."""

import io
import time

from rich.console import Console

from sweep.causes import Cause
from sweep.folder import StudyFolder
from sweep.live_file import read_moment
from sweep.progress import Progress, event_line
from sweep.searcher import COMPLETE, FAIL, PRUNED, RUNNING
from tests.sweep.fakes import FakeClock, a_driver, a_trial


def until(condition, *, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def a_view(clock: FakeClock | None = None) -> tuple[Progress, io.StringIO]:
    said = io.StringIO()
    return Progress(Console(file=said, width=140), study="s", clock=clock or FakeClock()), said


def test_trials_of_an_earlier_launch_are_no_news():
    view, said = a_view()
    view.update(a_driver(a_trial(0, COMPLETE, (12, 0.5)), now=False), {})
    assert "t0000  objective" not in said.getvalue()


def test_the_first_score_of_an_adapter_is_told_once_with_the_time_since_the_launch():
    clock = FakeClock()
    view, said = a_view(clock)
    view.update(a_driver(a_trial(0)), {})
    clock.now = 41.0
    view.update(a_driver(a_trial(0, RUNNING, (3, 0.5))), {})
    view.update(a_driver(a_trial(0, RUNNING, (3, 0.5), (6, 0.4))), {})
    assert said.getvalue().count("first adapter scored after 41 s") == 1 and view.first_scored_s == 41.0


def test_without_a_terminal_there_is_a_line_per_event_and_a_heartbeat_where_nothing_happens():
    clock = FakeClock()
    view, said = a_view(clock)
    view.phase("importing Ray")
    view.phase("importing Ray")
    for second in range(100):
        clock.now = float(second)
        view.update(a_driver(a_trial(0, *[RUNNING, (3, 0.5)] if second >= 70 else [])), {})
    # at 30 and 60 s, and 30 s after what was told at 70 s
    assert [line.split()[0] for line in said.getvalue().splitlines()] == ["0:00", "0:30", "1:00", "1:10", "1:10"]
    assert "0 of 10 trials have ended, 1 running" in said.getvalue()


def test_more_events_than_others_get_to_see_are_all_told_here():
    view, said = a_view()
    view.update(a_driver(*(a_trial(number, FAIL, reason="r") for number in range(100))), {})
    assert said.getvalue().count("failed: r") == 100


def test_a_new_best_is_told_with_its_configuration_and_an_old_one_is_not_told_again():
    view, said = a_view()
    first, second = a_trial(0, RUNNING, (3, 0.5)), a_trial(1)
    view.update(a_driver(first, second), {})
    second.rungs = [(3, 0.75, "k")]
    view.update(a_driver(first, second), {})
    second.rungs = [*second.rungs, (6, 0.25, "l")]
    view.update(a_driver(first, second), {})
    first.state = COMPLETE
    view.update(a_driver(first, second), {})
    best = [line.split()[1] for line in said.getvalue().splitlines() if "the best so far: rank=8" in line]
    assert best == ["t0000", "t0001"] and said.getvalue().count("t0001") == 2


def test_an_event_says_how_a_trial_ended():
    assert event_line(a_trial(1, FAIL, reason="loss is NaN"), new_rung=False) == "t0001  failed: loss is NaN"
    assert "stopped early" in event_line(a_trial(1, PRUNED, (3, 0.5)), new_rung=True)
    assert "its best 0.2500 at epoch 3" in event_line(a_trial(1, COMPLETE, (3, 0.25), (6, 0.5)), new_rung=True)
    assert event_line(a_trial(1), new_rung=False) == event_line(a_trial(1, FAIL, reason="interrupted by `sweep stop`", cause=Cause.INTERRUPTED), new_rung=False) == ""


def test_a_pause_a_stop_and_a_budget_that_is_used_up_are_told_once_each():
    view, said = a_view()
    driver = a_driver(a_trial(0))
    going_on = (False, None, None)
    used_up, stopped = (False, "the budget of 1 hours is used up", None), (False, "interrupted", Cause.INTERRUPTED)
    for paused, stopping, cause in (going_on, (True, None, None), going_on, used_up, stopped):
        driver.paused, driver.stopping, driver.stop_cause = paused, stopping, cause
        for _ in range(3):
            view.update(driver, {})
    driver.live = []
    view.update(driver, {})
    told = [line.split("  ", 1)[1].split(";")[0] for line in said.getvalue().splitlines() if "trials have ended" not in line]
    assert told == ["paused", "going on", "the budget of 1 hours is used up: the trials that run are finished", "interrupted: the rungs under way are finished"]


def test_a_device_that_is_left_out_is_told_once():
    view, said = a_view()
    for _ in range(3):
        view.update(a_driver(a_trial(0)), {"left_out": {"here GPU 0": "lost 3 workers in a row"}})
    assert said.getvalue().count("left out: here GPU 0: lost 3 workers in a row") == 1


def test_what_the_screen_shows_is_in_the_folder_while_the_launch_has_it(tmp_path):
    view, _ = a_view()
    folder = StudyFolder(tmp_path, "s")
    with view.during(folder, "launch-1"):
        view.update(a_driver(a_trial(0)), {})
        until(folder.live.exists)
        assert read_moment(folder.live, "launch-1") is not None and read_moment(folder.live, "launch-0") is None
    assert not folder.live.exists()
    view.update(a_driver(a_trial(0)), {})
    assert not folder.live.exists()
