"""What a launch obeys: the control file of its own launch, signals by their number, and the loss of its lease."""

import json
import os
import signal
import socket

import pytest

from sweep.control import AT_RUNGS, NOW, Control, ask
from sweep.errors import LeaseLostError, StudyError
from sweep.folder import StudyFolder
from sweep.launches import LaunchLog, Request, read_launches
from sweep.searcher import FAIL
from sweep.standing_orders import Interruptions, StandingOrders, interruptions
from tests.sweep.fakes import FakeClock
from tests.sweep.test_driver import Bench, listed_study, turned, under_way


class Case:
    """A study of four live trials, two of them training, in a folder that its launch holds."""

    def __init__(self, tmp_path) -> None:
        self.folder, self.clock, self.heard, self.is_lost = StudyFolder(tmp_path, "s"), FakeClock(), Interruptions(), False
        self.driver, self.pool, self.worker = Bench(listed_study(), n_slots=2).prepare()
        self.silent_s = 0.0
        self.driver.fill()
        self.turn(2)
        self.folder.root.mkdir()
        self.folder.description.write_text("{}")
        self.log = LaunchLog(self.folder.launches, "mine", Request(), guard=self.guard, clock=self.clock)
        self.orders = self.orders_of("mine")

    def orders_of(self, launch: str) -> StandingOrders:
        told = {"loss": self.loss, "changed": lambda study: self.folder.write_study(study, {})}
        return StandingOrders(Control(self.folder.control, launch), self.log, self.heard, **told, clock=self.clock)

    def loss(self) -> LeaseLostError | None:
        return self.folder.lease_lost() if self.is_lost else None

    def guard(self) -> None:
        if (lost := self.loss()) is not None:
            raise lost

    def turn(self, times: int) -> None:
        turned(self.driver, self.pool, self.worker, times=times)

    def obey(self, *, after_s: float = 1.0) -> None:
        self.clock.sleep(after_s)
        self.orders.obey(self.driver, lambda: under_way(self.driver, self.pool), lambda: self.silent_s, n_gpus=0)

    @property
    def state(self) -> str:
        return read_launches(self.folder.launches).entries[-1].state


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


def test_a_study_is_paused_goes_on_and_is_stopped_at_its_rungs_by_its_control_file(case):
    with case.folder.held("mine"):
        ask(case.folder, paused=True)
        case.obey()
        case.turn(20)
        assert case.driver.paused and case.state == "paused" and case.worker.device.held == ()
        ask(case.folder, paused=False)
        case.obey()
        case.turn(2)
        assert not case.driver.paused and case.state == "running" and len(case.worker.device.held) == 2
        ask(case.folder, stop=AT_RUNGS)
        case.obey()
        assert len(case.driver.live) == 2 and case.state == "interrupted by `sweep stop`"
        case.turn(20)
        assert case.driver.finished
        case.orders.ended(case.driver)
    assert {trial.state for trial in case.driver.trials.values()} == {FAIL} and case.folder.holder is None


def test_a_stop_becomes_more_urgent_but_is_never_taken_back(case):
    with case.folder.held("mine"):
        ask(case.folder, stop=AT_RUNGS)
        case.obey()
        ask(case.folder, stop=None)
        case.obey()
        assert case.driver.stopping and len(case.driver.live) == 2
        ask(case.folder, stop=NOW)
        case.obey()
        assert case.driver.live == [] and case.driver.finished


def test_limits_are_taken_and_remembered_for_the_next_resume(case):
    with case.folder.held("mine"):
        ask(case.folder, limits={"samples": 7})
        ask(case.folder, limits={"max_concurrent": 6})
        case.obey()
    assert case.driver.n_trials == 7 and len(case.driver.live) == 6
    assert read_launches(case.folder.launches).request.overrides == {"samples": "7", "max_concurrent": "6"}
    assert case.folder.read_description()["samples"] == 7


def test_what_was_asked_of_an_earlier_launch_is_not_obeyed(case):
    with case.folder.held("an earlier one"):
        ask(case.folder, stop=NOW, paused=True)
    case.obey()
    assert case.driver.stopping is None and not case.driver.paused
    with case.folder.held("mine"):
        assert ask(case.folder, limits={"samples": 20}).stop is None


@pytest.mark.parametrize("text", ["", "[1]", '{"launch": "mine", "nonsense": 1}', '{"launch": "mine", "limits": {"samples": -1}}', '{"launch": "mine", "limits": {"rank": 1}}'])
def test_a_control_file_that_nobody_of_ours_wrote_changes_nothing(case, text):
    case.folder.control.write_text(text)
    case.obey()
    assert case.driver.stopping is None and not case.driver.paused and case.driver.n_trials == 8


def test_the_file_is_looked_at_once_a_second(case):
    with case.folder.held("mine"):
        case.obey()
        ask(case.folder, stop=NOW)
        case.obey(after_s=0.5)
        assert case.driver.stopping is None
        case.obey(after_s=0.5)
        assert case.driver.stopping is not None


def test_a_launch_that_lost_its_lease_leaves_the_study_and_its_log_alone(case):
    case.is_lost = True
    case.obey()
    assert "this one holds s no longer" in str(case.driver.fatal) and case.driver.live == []
    before = case.folder.launches.read_text()
    case.clock.sleep(100)
    case.orders.ended(case.driver)
    assert case.folder.launches.read_text() == before


def test_a_launch_that_slept_notices_it_before_its_next_beat_however_its_clock_counts_sleep(case):
    """A machine that was suspended: the clock that says when to look has stood still, the one of the log has not."""
    case.obey()
    case.is_lost, before = True, case.folder.launches.read_text()
    case.orders._looked_at = case.clock.now + 1000
    case.obey(after_s=100)
    assert isinstance(case.driver.fatal, LeaseLostError) and case.folder.launches.read_text() == before


def test_nobody_can_be_asked_where_nothing_runs_and_a_wrong_limit_is_refused_before_it_is_written(case):
    with pytest.raises(StudyError, match="s does not.*sweep resume s"):
        ask(case.folder, stop=NOW)
    with case.folder.held("mine"), pytest.raises(StudyError, match="samples.*-3"):
        ask(case.folder, limits={"samples": -3})
    assert not case.folder.control.exists()


def test_a_launch_on_another_machine_is_asked_through_the_shared_folder(case):
    case.folder.root.joinpath(".lease").write_text(json.dumps({"host": f"not {socket.gethostname()}", "pid": 1, "token": "x", "note": {"launch": "mine"}}))
    ask(case.folder, paused=True)
    case.obey()
    assert case.driver.paused


@pytest.mark.parametrize("numbers, urgencies", [([signal.SIGINT] * 2, [1, 2]), ([signal.SIGTERM], [2]), ([signal.SIGINT, signal.SIGTERM], [1, 2])])
def test_ctrl_c_once_twice_and_sigterm(numbers, urgencies):
    with interruptions() as heard:
        for number, urgency in zip(numbers, urgencies, strict=True):
            os.kill(os.getpid(), number)
            assert heard.urgency == urgency
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
